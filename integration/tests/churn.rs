//! Pods come and go, eight at a time: some crash, some end, some lose their supervisor, some are taken back before they
//! are up, some are made over CRI; the agent is killed now and then. Nothing is left and no memory grows.
//!
//! `PINTLE_TEST_CHURN` says how many pods (`make churn`: 1,000).

#![allow(clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use pintle_integration::{
    Manifest, Memory, NODE, Node, condition, container_status, heap_in_use, slope, time_out, wait_until,
};
use serde_json::Value;

/// So many pods at a time.
const AT_ONCE: usize = 8;
/// Memory is measured each time so many more pods are gone.
const SAMPLE_EVERY: usize = 50;
/// From so many pods on, the agent is let rest between them, so that what it holds for good is seen.
const RESTS_FROM: usize = 600;
/// So often, in equal steps of the first half of the pods.
const RESTS: usize = 5;
/// Longer than the daemon waits for work before it gives memory back.
const REST: Duration = Duration::from_secs(16);
/// What an agent at rest may use more of its heap for each pod that came and went: less than a record or a name of a pod.
const LEAK_AT_REST: f64 = 32.0;
/// Beyond that, at rest: tables that keep the size they once needed.
const SLACK_AT_REST: f64 = 64.0 * 1024.0;
/// What an agent or supervisor may grow by in a whole run without that being a leak: allocators keep what was once used.
const SLACK: f64 = 8.0 * 1024.0 * 1024.0;
/// Beyond that, per pod or restart. A leaked string would be less, but a pod's record, task or connection is more.
const LEAK: f64 = 2048.0;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a pod of the churn is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Becomes ready and is removed.
    Plain,
    /// Crashes and is started again, then removed.
    Crash,
    /// Ends with a code of its own, which has to be told.
    Ends,
    /// Its supervisor is killed, and it is removed when it was rebuilt.
    Rebuilt,
    /// Its supervisor is killed, and it is removed at once.
    Orphaned,
    /// Is removed while it starts.
    Hasty,
    /// Made and removed over CRI, step by step.
    Cri,
}

const KINDS: [Kind; 10] = [
    Kind::Plain,
    Kind::Crash,
    Kind::Ends,
    Kind::Rebuilt,
    Kind::Hasty,
    Kind::Cri,
    Kind::Plain,
    Kind::Orphaned,
    Kind::Ends,
    Kind::Crash,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Starting,
    Rebuilding,
    Leaving,
}

#[derive(Debug)]
struct Slot {
    index: usize,
    kind: Kind,
    step: Step,
    since: Instant,
}

impl Slot {
    fn name(&self) -> String {
        format!("churn{}", self.index)
    }

    fn file(&self) -> String {
        format!("churn{}.yaml", self.index)
    }

    fn exit_code(&self) -> usize {
        1 + self.index % 200
    }

    fn manifest(&self) -> Manifest {
        let script = match self.kind {
            Kind::Ends => format!("echo over; exit {}", self.exit_code()),
            Kind::Crash => {
                "echo again; [ -e /v/seen ] && exec sleep infinity; : > /v/seen; exit 3".to_owned()
            }
            Kind::Plain | Kind::Rebuilt | Kind::Orphaned | Kind::Hasty | Kind::Cri => {
                "echo up; exec sleep infinity".to_owned()
            }
        };
        let policy = if self.kind == Kind::Ends { "Never" } else { "Always" };
        let volume = if self.index.is_multiple_of(2) { "emptyDir: {}" } else { "emptyDir: {medium: Memory}" };
        Manifest::sleeper(&self.name()).spec("restartPolicy", policy).shell(&script).volume("v", volume, "/v")
    }
}

#[test]
fn a_thousand_pods_come_and_go_and_leave_nothing_while_memory_stays_flat() {
    let total = number("PINTLE_TEST_CHURN", 60);
    let mut node = Node::prepare();
    node.set_config("restartBackOff: {initial: 100ms, max: 1s}\n");
    // What threads keep ready for themselves counts as in use, and takes a thousand pods to fill.
    node.set_agent_env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    node.start_agent();
    node.pintle(&["import", &pintle_integration::image_archive().to_string_lossy()]);
    let began = Instant::now();
    let (mut started, mut gone, mut kills) = (0, 0, 0);
    let mut slots: Vec<Slot> = Vec::new();
    let mut samples: Vec<Sample> = Vec::new();
    let mut at_rest: Vec<(f64, f64)> = Vec::new();
    let mut rests = rests(total);
    while gone < total {
        while slots.len() < AT_ONCE && started < rests.last().copied().unwrap_or(total) {
            slots.push(begin(&node, started));
            started += 1;
        }
        // In the second half the agent dies now and then; in the first its memory can be watched.
        if gone > total / 2 && gone / 10 > (total / 2) / 10 + kills {
            node.kill_agent();
            node.start_agent();
            kills += 1;
        }
        let pods = look(&node);
        slots.retain_mut(|slot| !advance(&node, slot, &pods));
        gone = started - slots.len();
        if kills == 0 && samples.len() <= gone / SAMPLE_EVERY && gone >= AT_ONCE {
            let memory = Memory::of(node.agent_pid());
            println!("{gone} pods gone after {:.1?}: {memory}", began.elapsed());
            samples.push((as_float(gone), memory));
        }
        if slots.is_empty() && rests.pop_if(|rest| *rest == gone).is_some() {
            std::thread::sleep(REST);
            let heap = heap_in_use(&node.endpoint()).expect("the agent tells of its heap");
            let memory = Memory::of(node.agent_pid());
            println!("{gone} pods gone, at rest: {memory}, {heap} bytes of the heap in use");
            at_rest.push((as_float(gone), as_float(usize::try_from(heap).unwrap_or(0))));
        }
    }
    println!("{total} pods in {:.1?}, {kills} agents killed", began.elapsed());
    report("agent", "pod", &samples);
    report_rest(&at_rest);
    println!("the last agent: {}", Memory::of(node.agent_pid()));
    node.finish();
}

/// After how many pods the agent is let rest, the last first.
fn rests(total: usize) -> Vec<usize> {
    let step = total / 2 / RESTS;
    let rests = (1..=RESTS).rev().map(|rest| rest * step);
    if total < RESTS_FROM { Vec::new() } else { rests.collect() }
}

/// After so many pods or restarts, so much memory.
type Sample = (f64, Memory);

fn as_float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// Tells by how many bytes per unit memory grew, and fails where that is a leak beyond doubt.
fn report(who: &str, unit: &str, samples: &[Sample]) {
    let series = |field: fn(&Memory) -> u64| -> Vec<(f64, f64)> {
        let bytes = |memory| as_float(usize::try_from(field(memory)).unwrap_or(0));
        samples.iter().map(|(x, memory)| (*x, bytes(memory))).collect()
    };
    let all =
        [("rss", series(|m| m.rss)), ("pss", series(|m| m.pss)), ("anonymous", series(|m| m.anonymous))];
    for (name, points) in &all {
        // What the first ones need once is no growth: the later half tells more.
        let later = &points[points.len() / 2..];
        println!(
            "{who}: {name} grows by {:.0} bytes per {unit}, by {:.0} in the later half",
            slope(points),
            slope(later)
        );
    }
    let [.., (_, anonymous)] = &all;
    let (Some(first), Some(last)) = (anonymous.first(), anonymous.last()) else { return };
    let grown = last.1 - first.1;
    let allowed = SLACK + LEAK * (last.0 - first.0);
    assert!(grown < allowed, "{who}: grew by {grown} bytes over {} {unit}s", last.0 - first.0);
}

/// Tells by how many bytes per pod the heap of an agent at rest grew, and fails where it keeps anything of each pod.
fn report_rest(heap: &[(f64, f64)]) {
    let (Some(first), Some(last)) = (heap.first(), heap.last()) else { return };
    println!("agent at rest: its heap grows by {:.1} bytes per pod", slope(heap));
    let (grown, pods) = (last.1 - first.1, last.0 - first.0);
    assert!(grown < SLACK_AT_REST + LEAK_AT_REST * pods, "at rest: {grown} bytes more after {pods} pods");
}

fn look(node: &Node) -> BTreeMap<String, Value> {
    let pods = node.try_pods().unwrap_or_else(|| panic!("the agent does not answer:\n{}", node.agent_log()));
    let named = |pod: Value| {
        let name = pod["metadata"]["name"].as_str()?.strip_suffix(&format!("-{NODE}"))?.to_owned();
        Some((name, pod))
    };
    pods.into_iter().filter_map(named).collect()
}

fn begin(node: &Node, index: usize) -> Slot {
    let slot = Slot { index, kind: KINDS[index % KINDS.len()], step: Step::Starting, since: Instant::now() };
    if slot.kind == Kind::Cri {
        make_by_cri(node, &slot);
    } else {
        node.manifest(&slot.file(), &slot.manifest());
    }
    slot
}

/// One step further, if it is time; true when nothing of the pod is left.
fn advance(node: &Node, slot: &mut Slot, pods: &BTreeMap<String, Value>) -> bool {
    let pod = pods.get(&slot.name());
    assert!(slot.since.elapsed() < time_out(60), "{slot:?} is stuck: {pod:#?}\n{}", node.agent_log());
    if slot.kind == Kind::Cri {
        remove_by_cri(node, slot);
        return true;
    }
    let ready = pod.is_some_and(|pod| condition(pod, "Ready") == "True");
    let restarts = pod.and_then(|pod| container_status(pod, "app")["restartCount"].as_u64()).unwrap_or(0);
    let leave = match (slot.step, slot.kind) {
        (Step::Leaving, _) => return pod.is_none(),
        (Step::Starting, Kind::Hasty) => true,
        (Step::Starting, Kind::Crash) => ready && restarts >= 1,
        (Step::Starting, Kind::Ends) => pod.is_some_and(|pod| has_ended(slot, pod)),
        (Step::Starting, Kind::Rebuilt | Kind::Orphaned) if ready => {
            kill_supervisor(node, &slot.name());
            slot.step = Step::Rebuilding;
            slot.kind == Kind::Orphaned
        }
        (Step::Rebuilding, _) => ready && restarts >= 1,
        (Step::Starting, _) => ready,
    };
    if leave {
        node.remove_manifest(&slot.file());
        slot.step = Step::Leaving;
    }
    false
}

fn has_ended(slot: &Slot, pod: &Value) -> bool {
    let ended = pod["status"]["phase"] == "Failed";
    if ended {
        let code = &container_status(pod, "app")["state"]["terminated"]["exitCode"];
        assert_eq!(*code, slot.exit_code(), "{pod:#}");
    }
    ended
}

fn kill_supervisor(node: &Node, name: &str) {
    let (infra, _) = node.sandbox(name);
    let supervisor = parent(infra);
    let pid = rustix::process::Pid::from_raw(supervisor).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after = stat.rsplit(')').next().expect("a state");
    after.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a parent")
}

fn make_by_cri(node: &Node, slot: &Slot) {
    let name = slot.name();
    let (pod, app) = (node.path(&format!("{name}-pod.json")), node.path(&format!("{name}-app.json")));
    let uid = format!("uid-{name}");
    let sandbox = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"cri","uid":"{uid}","attempt":0}},"log_directory":"{}","linux":{{}}}}"#,
        node.path(&format!("cri-logs/{name}")).display()
    );
    let container = r#"{"metadata":{"name":"app"},"image":{"image":"localhost/pintle-demo:1"},"command":["sleep","1000"],"log_path":"app.log","linux":{}}"#;
    fs::write(&pod, sandbox).expect("a configuration can be written");
    fs::write(&app, container).expect("a configuration can be written");
    let (pod, app) = (pod.to_string_lossy(), app.to_string_lossy());
    let sandbox = node.pintle(&["runp", &pod]);
    let container = node.pintle(&["create", sandbox.trim(), &app, &pod]);
    node.pintle(&["start", container.trim()]);
}

fn remove_by_cri(node: &Node, slot: &Slot) {
    let name = slot.name();
    let id = node.pintle(&["pods", "--name", &name, "-q", "--no-trunc"]);
    node.pintle(&["stopp", id.trim()]);
    node.pintle(&["rmp", id.trim()]);
    for file in [format!("{name}-pod.json"), format!("{name}-app.json")] {
        fs::remove_file(node.path(&file)).expect("a configuration can be removed");
    }
}

#[test]
fn a_supervisor_does_not_grow_with_restarts_and_execs() {
    let rounds = number("PINTLE_TEST_CHURN", 60) / 2;
    let mut node = Node::prepare();
    node.set_config("restartBackOff: {initial: 1ms, max: 1ms}\n");
    node.start_agent();
    node.pintle(&["import", &pintle_integration::image_archive().to_string_lossy()]);
    let pod = Manifest::new("a").container("crashes").shell("sleep 0.05; exit 1").container("stays");
    node.manifest("a.yaml", &pod);
    let restarts = |pod: &Value| container_status(pod, "crashes")["restartCount"].as_u64().unwrap_or(0);
    node.wait_pod("a", "crashing", |pod| restarts(pod) >= 1);
    let (infra, _) = node.sandbox("a");
    let supervisor = parent(infra);
    let stays = node.container("a", "stays").id;
    let mut samples = Vec::new();
    for round in 0..rounds {
        let output = node.pintle(&["exec", "-s", &stays, "echo", "hello"]);
        assert_eq!(output.trim(), "hello");
        if round % 5 == 0 {
            let pod = node.pod("a").expect("the pod");
            samples.push((as_float(usize::try_from(restarts(&pod)).unwrap_or(0)), Memory::of(supervisor)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let last = wait_until("the pod", || node.pod("a"));
    println!("{rounds} execs, {} restarts: {}", restarts(&last), Memory::of(supervisor));
    report("supervisor", "restart", &samples);
    assert_eq!(parent(node.sandbox("a").0), supervisor, "the supervisor was replaced");
    node.finish();
}
