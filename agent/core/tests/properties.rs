//! Random interleavings of manifests, exits, losses, faults, time and agent crashes, on the simulated node.
//!
//! The rules that hold at every single decision and action are asserted in `support::world` and `support::node`: the same
//! facts give the same plan, wake-ups lie ahead, no start after a stop was decided, never two live sandboxes or two live
//! containers of one name, no sandbox beside live containers, attempts count up by one, back-off is never shorter than
//! specified, a finished pod has nothing left. Here is what holds at the end: everything settles, what is wanted runs or
//! is over, and what is not wanted leaves nothing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm)]

mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use pintle_core::decide::decide;
use pintle_core::ids::{ContainerId, SandboxId};
use pintle_core::model::{ActionKey, Goal, Observed, UnderWay};
use proptest::prelude::*;
use support::statement::{PodText, Statement, Survivors, Target};
use support::world::World;

const PODS: [&str; 2] = ["web", "job"];
const CONTAINERS: [&str; 2] = ["app", "side"];
const VERBS: [&str; 9] =
    ["prepare", "sandbox", "create", "start", "stop", "stopsandbox", "remove", "removesandbox", "cleanup"];

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Outside(Statement),
    /// The workers decide and begin.
    Decide,
    /// A pending action is carried out.
    Finish(usize),
    /// A pending action is carried out, and the agent dies before it can take note.
    FinishAndCrash(usize),
    Crash,
    /// Time passes and the agent does not get to do anything.
    Pass(Duration),
    /// Time passes and everything that is due is done.
    Tick(Duration),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(PODS.to_vec()).prop_map(str::to_owned)
}

fn target() -> impl Strategy<Value = Target> {
    let container = prop::sample::select(CONTAINERS.to_vec()).prop_map(str::to_owned);
    (name(), container).prop_map(|(pod, container)| Target { pod, container })
}

fn pod_text() -> impl Strategy<Value = PodText> {
    let restart = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    let pull = prop::sample::select(vec!["Always", "IfNotPresent", "Never"]);
    (restart, pull, 1usize..=2, 0u64..20).prop_map(|(restart, pull, containers, grace)| PodText {
        restart: restart.to_owned(),
        pull: Some(pull.to_owned()),
        grace: Some(Duration::from_secs(grace)),
        host_network: false,
        containers: CONTAINERS.iter().take(containers).map(|c| ((*c).to_owned(), format!("{c}:1"))).collect(),
    })
}

fn outside() -> impl Strategy<Value = Statement> {
    let survivors = prop::sample::select(vec![Survivors::Killed, Survivors::Unknown, Survivors::Running]);
    let image = prop::sample::select(vec!["app:1", "side:1", "app:2"]).prop_map(str::to_owned);
    prop_oneof![
        4 => (name(), pod_text()).prop_map(|(name, spec)| Statement::PodSet { file: name.clone(), name, spec }),
        2 => name().prop_map(|name| Statement::PodRemove { file: name.clone(), name }),
        1 => (name(), 1u32..=2).prop_map(|(name, n)| Statement::PodImage {
            name,
            container: "app".to_owned(),
            image: format!("app:{n}"),
        }),
        1 => (name(), 0u64..10)
            .prop_map(|(name, s)| Statement::PodShorten { name, grace: Duration::from_secs(s) }),
        4 => (target(), 0i32..2).prop_map(|(target, code)| Statement::ContainerExit { target, code }),
        1 => target().prop_map(|target| Statement::ContainerOom { target }),
        1 => target().prop_map(|target| Statement::ContainerUnknown { target }),
        1 => target().prop_map(|target| Statement::ProgramIgnoresStop { target }),
        1 => (target(), 0i32..2, 0u64..700).prop_map(|(target, code, s)| Statement::ProgramExits {
            target,
            code,
            after: Duration::from_secs(s),
        }),
        2 => (name(), survivors).prop_map(|(pod, containers)| Statement::SandboxDie { pod, containers }),
        1 => name().prop_map(|pod| Statement::SandboxVanish { pod }),
        1 => (image.clone(), any::<bool>()).prop_map(|(image, present)| Statement::Image { image, present }),
        1 => (image.clone(), 1u64..60)
            .prop_map(|(image, s)| Statement::PullTakes { image, time: Duration::from_secs(s) }),
        1 => (image, 1u32..5).prop_map(|(what, times)| Statement::Fail { verb: "pull".to_owned(), what, times }),
        3 => (prop::sample::select(VERBS.to_vec()), target(), 1u32..5).prop_map(|(verb, target, times)| {
            let of_container = ["create", "start", "stop", "remove"].contains(&verb);
            let what = if of_container { format!("{}/{}", target.pod, target.container) } else { target.pod };
            Statement::Fail { verb: verb.to_owned(), what, times }
        }),
        1 => (target(), any::<bool>()).prop_map(|(target, down)| Statement::CrashInStart { target, down }),
        1 => Just(Statement::AgentStop),
        1 => Just(Statement::AgentStart),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![
        (0u64..3000).prop_map(Duration::from_millis),
        (0u64..60).prop_map(Duration::from_secs),
        (0u64..900).prop_map(Duration::from_secs),
    ];
    prop_oneof![
        6 => outside().prop_map(Step::Outside),
        6 => Just(Step::Decide),
        8 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::FinishAndCrash),
        1 => Just(Step::Crash),
        1 => time.clone().prop_map(Step::Pass),
        3 => time.prop_map(Step::Tick),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        // A statement may find nothing to act on, and an agent that runs is not started.
        Step::Outside(Statement::AgentStart) if world.agent.is_some() => {}
        Step::Outside(statement) => drop(world.change(statement)),
        Step::Decide => drop(world.decide_all()),
        Step::Finish(index) => finish(world, index),
        Step::FinishAndCrash(index) => {
            finish(world, index);
            restart(world);
        }
        Step::Crash => restart(world),
        Step::Pass(time) => {
            world.now = world.now + time;
            world.node.run_events(world.now);
            world.end_lasting();
        }
        Step::Tick(time) => world.tick(time),
    }
}

fn finish(world: &mut World, index: usize) {
    let Some(agent) = &world.agent else { return };
    let ready: Vec<usize> = (0..agent.pending.len()).filter(|i| !agent.pending[*i].lasting).collect();
    if !ready.is_empty() {
        world.finish(ready[index % ready.len()]);
    }
}

fn restart(world: &mut World) {
    world.kill_agent();
    world.start_agent();
}

/// From now on nothing fails and nothing happens by itself.
fn calm_down(world: &mut World) {
    world.disarm();
    world.node.faults.clear();
    world.node.programs.clear();
    world.node.images.extend(["app:1", "app:2", "side:1"].map(str::to_owned));
    if world.agent.is_none() {
        world.start_agent();
    }
    world.settle();
    world.tick(Duration::from_secs(1200));
}

fn is_ready_or_over(status: &api::PodStatus) -> bool {
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let over = ["Succeeded", "Failed"].contains(&status.phase.as_deref().unwrap_or_default());
    let running = status.phase.as_deref() == Some("Running");
    let partly = status.container_statuses.iter().flatten().all(|c| {
        let state = c.state.as_ref();
        state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    });
    ready || over || (running && partly)
}

fn check_the_end(world: &mut World) {
    calm_down(world);
    for pod in PODS {
        let Some((uid, goal)) = world.worker(pod) else { continue };
        assert!(matches!(goal, Goal::Run(_)), "{uid} is still going away");
        let plan = world.decide_checked(&uid, &goal);
        assert!(plan.actions.is_empty(), "{uid} has no rest: {:?}", plan.actions);
        assert!(plan.wake_at.is_none(), "{uid} still waits for something");
        assert!(is_ready_or_over(&plan.status), "{uid} is stuck: {:?}", plan.status);
    }
    for pod in PODS {
        let file = pod.to_owned();
        drop(world.change(Statement::PodRemove { name: pod.to_owned(), file }));
    }
    world.settle();
    world.tick(Duration::from_secs(1200));
    assert!(world.node.pods.is_empty(), "left: {:?}", world.node.pods);
    assert!(world.worker("web").is_none() && world.worker("job").is_none(), "a worker never ended");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold_and_everything_settles(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::default();
        for step in steps {
            take(&mut world, step);
        }
        check_the_end(&mut world);
    }

    #[test]
    fn a_crash_after_any_action_of_a_quiet_life_changes_nothing(
        text in pod_text(), first in 1u32..12, second in 1u32..12,
    ) {
        let mut world = World::default();
        for image in ["app:1", "side:1"] {
            world.run(Statement::Image { image: image.to_owned(), present: true }).unwrap();
        }
        world.run(Statement::CrashAfter(first)).unwrap();
        world.run(Statement::PodSet { name: "web".into(), file: "web".into(), spec: text }).unwrap();
        let (uid, goal) = world.worker("web").unwrap();
        let plan = world.decide_checked(&uid, &goal);
        let restarts = plan.status.container_statuses.iter().flatten().map(|c| c.restart_count).sum::<i32>();
        prop_assert_eq!(restarts, 0);
        prop_assert_eq!(plan.status.phase.as_deref(), Some("Running"));
        world.run(Statement::CrashAfter(second)).unwrap();
        world.run(Statement::PodRemove { name: "web".into(), file: "web".into() }).unwrap();
        prop_assert!(world.node.pods.is_empty());
    }
}

/// A pod of restart policy OnFailure whose container succeeded, at the point where its worker has begun `steps` further actions
/// and carried out none of the last ones.
fn over_after(carried_out: usize) -> World {
    let mut world = World::default();
    world.node.images.insert("app:2".to_owned());
    let text = "pod add job restart=OnFailure";
    world.run(support::statement::parse(text).unwrap().unwrap()).unwrap();
    let target = Target { pod: "job".into(), container: "app".into() };
    world.change(Statement::ContainerExit { target, code: 0 }).unwrap();
    for _ in 0..carried_out {
        world.decide_all();
        world.finish(0);
    }
    world.decide_all();
    world
}

fn wanted_again(mut world: World) -> World {
    let image = "app:2".to_owned();
    world.change(Statement::PodImage { name: "job".into(), container: "app".into(), image }).unwrap();
    // The checks in the world see to it that nothing starts in what is being taken away.
    world.decide_all();
    world.settle();
    let (uid, goal) = world.worker("job").unwrap();
    let status = world.decide_checked(&uid, &goal).status;
    assert_eq!(status.phase.as_deref(), Some("Running"), "{:?}", world.trace);
    world
}

#[test]
fn a_pod_wanted_again_while_its_sandbox_is_being_stopped_gets_another_sandbox() {
    let world = wanted_again(over_after(0));
    assert!(world.trace.iter().any(|line| line.ends_with("create sandbox 1")), "{:?}", world.trace);
}

#[test]
fn a_pod_wanted_again_while_its_directory_is_being_removed_is_prepared_again() {
    let world = wanted_again(over_after(1));
    let prepared = world.trace.iter().filter(|line| line.ends_with(": prepare")).count();
    assert_eq!(prepared, 2, "{:?}", world.trace);
}

/// A pod whose only container is being started.
fn starting() -> World {
    let mut world = World::default();
    world.node.images.insert("app:1".to_owned());
    let text = "pod add web pull=IfNotPresent";
    world.change(support::statement::parse(text).unwrap().unwrap()).unwrap();
    for _ in 0..2 {
        world.decide_all();
        world.finish(0);
    }
    assert_eq!(world.decide_all(), 1, "the start of the container");
    world
}

#[test]
fn a_pod_that_goes_away_waits_for_a_start_under_way_before_it_stops_the_sandbox() {
    let mut world = starting();
    world.change(Statement::PodRemove { name: "web".into(), file: "web".into() }).unwrap();
    assert_eq!(world.decide_all(), 0, "nothing before the start has ended");
    world.settle();
    assert!(world.node.pods.is_empty(), "{:?}", world.trace);
}

/// The simulated node does all of an action at once. A real one is seen without the pod's directory before the clean-up
/// has told its end.
#[test]
fn a_pod_of_which_nothing_is_left_is_finished_only_when_nothing_is_under_way_either() {
    let world = World::default();
    let goal = Goal::Terminate { pod: None, deadline: world.now };
    let finished_during = |key: Option<ActionKey>| {
        let under_way = UnderWay { since: world.now, until: None };
        let in_flight = key.into_iter().map(|key| (key, under_way)).collect();
        let observed = Observed { in_flight, ..Observed::default() };
        decide(&goal, &observed, world.now, &world.policy).finished
    };
    assert!(finished_during(None));
    assert!(finished_during(Some(ActionKey::Pull("app:1".to_owned()))), "a pull leaves only an image");
    for key in [
        ActionKey::Prepare,
        ActionKey::Sandbox,
        ActionKey::Container("app".to_owned()),
        ActionKey::StopContainer(ContainerId::new("c")),
        ActionKey::RemoveContainer(ContainerId::new("c")),
        ActionKey::StopSandbox(SandboxId::new("s")),
        ActionKey::RemoveSandbox(SandboxId::new("s")),
        ActionKey::CleanUp,
    ] {
        assert!(!finished_during(Some(key.clone())), "finished during {key:?}");
    }
}

#[test]
fn a_sandbox_is_not_stopped_while_a_container_is_being_started_in_it() {
    let mut world = starting();
    world.change(Statement::SandboxDie { pod: "web".into(), containers: Survivors::Killed }).unwrap();
    assert_eq!(world.decide_all(), 0, "nothing before the start has ended");
    world.settle();
    assert!(world.trace.iter().any(|line| line.ends_with("create sandbox 1")), "{:?}", world.trace);
}
