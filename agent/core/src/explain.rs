//! Why a pod is not Ready, and what happens next.
//!
//! In: what `decide` is given. Out: an [`Explanation`]: a tree of causes made from the same [`Situation`] that the plan is
//! made from, so that it cannot tell another story than the one that is acted on. As text (`Display`) and, by serde, as JSON.

use std::fmt;

use serde::Serialize;

use crate::decide::container_need::{ContainerNeed, Start, StartStep, StopReason};
use crate::decide::look::{Gate, Look};
use crate::decide::situation::{self, ContainerView, Situation, Stage};
use crate::ids::PodUid;
use crate::model::{ActionKey, Container, ContainerState, DesiredPod, Failure, Goal, Observed, Policy};
use crate::pod_status::{pod_is_ready, short_duration};
use crate::time::Timestamp;

/// The causal chain, from the pod down to the first cause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// `namespace/name`, if the pod is known.
    pub pod: Option<String>,
    /// Whether the pod is Ready.
    pub ready: bool,
    /// When this was so.
    #[serde(serialize_with = "rfc3339")]
    pub at: Timestamp,
    /// What is so, and because of what.
    pub links: Vec<Link>,
}

/// One thing that is so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// What.
    pub what: What,
    /// Since when, if a fact tells.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_of_some")]
    pub since: Option<Timestamp>,
    /// What it follows from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Link>,
    /// What happens next about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// When; absent if now or when something else happens.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_of_some")]
    pub next_at: Option<Timestamp>,
}

/// What is so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum What {
    /// The pod's sandbox is not running any more.
    SandboxLost,
    /// The pod has no sandbox yet.
    NoSandbox,
    /// The pod's cgroup or volumes are not there.
    NotPrepared,
    /// The pod has ended and its restart policy lets it rest.
    PodOver,
    /// The pod is going away.
    PodTerminating {
        /// When the last container must be gone.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339_of_some")]
        deadline: Option<Timestamp>,
    },
    /// Nothing of the pod is left.
    PodGone,
    /// The container runs.
    ContainerRuns {
        /// Its name.
        name: String,
    },
    /// The container does not run.
    ContainerDown {
        /// Its name.
        name: String,
    },
    /// An incarnation ended.
    Ended {
        /// The how-manieth.
        attempt: u32,
        /// Its exit code.
        exit_code: i32,
        /// Its reason.
        reason: String,
        /// What is known beyond that.
        #[serde(skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// It ended so often that the next start is delayed.
    RestartBackOff {
        /// By how many seconds.
        seconds: u64,
    },
    /// The image is not on the node.
    ImageAbsent {
        /// Its name.
        image: String,
    },
    /// The image is to be pulled before this start.
    ImageToPull {
        /// Its name.
        image: String,
    },
    /// The policy forbids pulling the image.
    PullForbidden,
    /// An action failed.
    ActionFailed {
        /// The reason users know.
        reason: String,
        /// What happened.
        message: String,
        /// How many times in a row.
        count: u32,
    },
    /// An action is under way.
    UnderWay,
    /// It must stop first.
    MustStop {
        /// Why.
        why: String,
    },
    /// It never ran.
    NeverRan,
    /// It waits for the pod's sandbox.
    WaitsForSandbox,
    /// The pod waits for an older pod of its name (or for itself, wanted again) to be gone.
    WaitsForPredecessor {
        /// The older pod.
        uid: PodUid,
    },
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Next {
    /// The node's resources for the pod are made.
    Prepare,
    /// A sandbox is made.
    CreateSandbox {
        /// The how-manieth.
        attempt: u32,
    },
    /// What is left of the lost sandbox is stopped.
    StopSandbox,
    /// An incarnation is started.
    StartContainer {
        /// The how-manieth.
        attempt: u32,
    },
    /// The image is pulled.
    PullImage,
    /// The container is stopped.
    StopContainer,
    /// What has not stopped when asked to is killed.
    KillContainers,
    /// What is left is removed.
    Remove,
    /// The end of what is under way is awaited.
    Await,
    /// Nothing, until somebody brings the image (`pintle import`, `pintle pull`) or changes the pod.
    NeedsImage,
    /// Nothing.
    Rest,
}

/// Explains what [`decide`](crate::decide::decide) decides from the same arguments.
pub fn explain(goal: &Goal, observed: &Observed, now: Timestamp, policy: &Policy) -> Explanation {
    let situation = situation::judge(goal, Look { observed, now, policy });
    let containers = situation.containers.iter().map(|view| container_link(&situation, view));
    let stage = stage_link(&situation);
    Explanation {
        pod: situation.pod.map(|pod| format!("{}/{}", pod.namespace(), pod.name())),
        ready: pod_is_ready(&situation),
        at: now,
        links: stage.into_iter().chain(containers).collect(),
    }
}

/// Explains a pod that has no worker yet: see [`WorkerSet::waiting`](crate::pod_workers::WorkerSet::waiting).
pub fn explain_waiting(pod: &DesiredPod, predecessor: &PodUid, now: Timestamp) -> Explanation {
    let what = What::WaitsForPredecessor { uid: predecessor.clone() };
    Explanation {
        pod: Some(format!("{}/{}", pod.namespace(), pod.name())),
        ready: false,
        at: now,
        links: vec![link(what, Some(Next::Await))],
    }
}

fn link(what: What, next: Option<Next>) -> Link {
    Link { what, since: None, because: Vec::new(), next, next_at: None }
}

/// What holds up the pod as a whole.
fn stage_link(situation: &Situation<'_>) -> Option<Link> {
    let look = situation.look;
    Some(match situation.stage {
        Stage::Ready(_) if look.prepared() => return None,
        Stage::Ready(_) | Stage::Preparing => {
            gated(look, link(What::NotPrepared, Some(Next::Prepare)), &ActionKey::Prepare)
        }
        Stage::Replacing => link(What::SandboxLost, Some(Next::StopSandbox)),
        Stage::CreatingSandbox { attempt } => {
            let what = if attempt == 0 { What::NoSandbox } else { What::SandboxLost };
            gated(look, link(what, Some(Next::CreateSandbox { attempt })), &ActionKey::Sandbox)
        }
        Stage::Over => link(What::PodOver, Some(Next::Rest)),
        Stage::Stopping { deadline } => {
            let what = What::PodTerminating { deadline: Some(deadline) };
            Link { next_at: Some(deadline), ..link(what, Some(Next::KillContainers)) }
        }
        Stage::Removing | Stage::CleaningUp => {
            link(What::PodTerminating { deadline: None }, Some(Next::Remove))
        }
        Stage::Gone => link(What::PodGone, Some(Next::Rest)),
    })
}

/// Adds what is known of the action of this key: that it is under way, or failed and when it is tried again.
fn gated(look: Look<'_>, mut link: Link, key: &ActionKey) -> Link {
    link.because.extend(look.failure(key).map(failed));
    match look.gate(key) {
        Gate::Open => {}
        Gate::UnderWay => {
            let since = look.observed.in_flight.get(key).map(|u| u.since);
            link.because.push(Link { since, ..self::link(What::UnderWay, None) });
            link.next = Some(Next::Await);
        }
        Gate::ClosedUntil(at) => link.next_at = Some(at),
    }
    link
}

fn failed(failure: &Failure) -> Link {
    let what = What::ActionFailed {
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        count: failure.count,
    };
    Link { since: Some(failure.at), ..link(what, None) }
}

fn container_link(situation: &Situation<'_>, view: &ContainerView<'_>) -> Link {
    let look = situation.look;
    let name = view.name.to_owned();
    let mut down = link(What::ContainerDown { name: name.clone() }, None);
    let latest = view.incarnations.first().copied();
    match &view.need {
        ContainerNeed::Keep => {
            Link { since: latest.and_then(running_since), ..link(What::ContainerRuns { name }, None) }
        }
        ContainerNeed::Finished => {
            down.because.extend(latest.and_then(ended));
            Link { next: Some(Next::Rest), ..down }
        }
        ContainerNeed::NeverRan => {
            down.because.push(link(What::NeverRan, None));
            Link { next: Some(Next::Rest), ..down }
        }
        ContainerNeed::Resume(container) => {
            down.next = Some(Next::StartContainer { attempt: container.attempt });
            gated(look, down, &ActionKey::Container(name))
        }
        ContainerNeed::Discard(container) => {
            down.because.push(must_stop(StopReason::SpecChanged));
            down.next = Some(Next::Remove);
            gated(look, down, &ActionKey::RemoveContainer(container.id.clone()))
        }
        ContainerNeed::Stop(container, reason) => {
            if let Some(since) = running_since(container) {
                down = Link { since: Some(since), ..link(What::ContainerRuns { name }, None) };
            }
            down.because.push(must_stop(*reason));
            down.next = Some(Next::StopContainer);
            gated(look, down, &ActionKey::StopContainer(container.id.clone()))
        }
        ContainerNeed::Start(_) if !matches!(situation.stage, Stage::Ready(_)) => {
            down.because.push(link(What::WaitsForSandbox, None));
            down.because.extend(latest.and_then(ended));
            down
        }
        ContainerNeed::Start(start) => start_link(look, view, start, down),
    }
}

fn start_link(look: Look<'_>, view: &ContainerView<'_>, start: &Start, mut down: Link) -> Link {
    let image = view.spec.and_then(|spec| spec.image.clone()).unwrap_or_default();
    let ended = view.incarnations.first().copied().and_then(ended);
    let key = ActionKey::Container(view.name.to_owned());
    down.next = Some(Next::StartContainer { attempt: start.attempt });
    match start.step {
        StartStep::RestartBackOff { delay, until } => {
            let back_off = link(What::RestartBackOff { seconds: delay.as_secs() }, None);
            down.because.push(Link { because: ended.into_iter().collect(), ..back_off });
            down.next_at = Some(until);
            return down;
        }
        StartStep::ImageNeverPulled => {
            let absent = link(What::ImageAbsent { image }, None);
            down.because.push(Link { because: vec![link(What::PullForbidden, None)], ..absent });
            down.next = Some(Next::NeedsImage);
        }
        StartStep::Pull | StartStep::Pulling | StartStep::PullBackOff { .. } => {
            let pull = link(What::ImageToPull { image: image.clone() }, Some(Next::PullImage));
            let mut pull = gated(look, pull, &ActionKey::Pull(image));
            if let StartStep::PullBackOff { until } = start.step {
                pull.next_at = Some(until);
            }
            down.next_at = pull.next_at;
            down.next = pull.next.take();
            down.because.push(Link { next_at: None, ..pull });
        }
        StartStep::FailureBackOff { .. } | StartStep::Go | StartStep::UnderWay => {
            down = gated(look, down, &key);
        }
    }
    down.because.extend(ended);
    down
}

fn must_stop(reason: StopReason) -> Link {
    link(What::MustStop { why: reason.text().to_owned() }, None)
}

fn running_since(container: &Container) -> Option<Timestamp> {
    match container.state {
        ContainerState::Running { started_at } => Some(started_at),
        ContainerState::Created | ContainerState::Exited { .. } | ContainerState::Unknown => None,
    }
}

fn ended(container: &Container) -> Option<Link> {
    let ContainerState::Exited { finished_at, exit_code, reason, message, .. } = &container.state else {
        return None;
    };
    let what = What::Ended {
        attempt: container.attempt,
        exit_code: *exit_code,
        reason: reason.clone(),
        message: message.clone(),
    };
    Some(Link { since: Some(*finished_at), ..link(what, None) })
}

fn rfc3339<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

#[expect(clippy::ref_option, reason = "serde hands the field over by reference")]
fn rfc3339_of_some<S: serde::Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SandboxLost => f.write_str("the pod's sandbox is lost"),
            Self::NoSandbox => f.write_str("the pod has no sandbox yet"),
            Self::NotPrepared => f.write_str("the pod's cgroup and volumes are not ready"),
            Self::PodOver => f.write_str("the pod has ended, and its restart policy lets it rest"),
            Self::PodTerminating { deadline: Some(_) } => f.write_str("the pod is terminating"),
            Self::PodTerminating { deadline: None } => {
                f.write_str("the pod is terminating, nothing of it runs")
            }
            Self::PodGone => f.write_str("nothing is left of the pod"),
            Self::ContainerRuns { name } => write!(f, "container {name} runs"),
            Self::ContainerDown { name } => write!(f, "container {name} does not run"),
            Self::Ended { attempt, exit_code, reason, message } => {
                write!(f, "run {attempt} ended with exit code {exit_code} ({reason})")?;
                write_message(f, message)
            }
            Self::RestartBackOff { seconds } => {
                write!(f, "it ends too soon: restarts are delayed by {}", short_duration(*seconds))
            }
            Self::ImageAbsent { image } => write!(f, "image {image} is not on the node"),
            Self::ImageToPull { image } => write!(f, "image {image} is to be pulled"),
            Self::PullForbidden => f.write_str("imagePullPolicy is Never"),
            Self::ActionFailed { reason, message, count } => {
                write!(f, "{reason}, {count} in a row: {message}")
            }
            Self::UnderWay => f.write_str("that is under way"),
            Self::MustStop { why } => write!(f, "it has to stop: {why}"),
            Self::NeverRan => f.write_str("it never ran"),
            Self::WaitsForSandbox => f.write_str("it waits for the pod's sandbox"),
            Self::WaitsForPredecessor { uid } => write!(f, "pod {uid} of the same name is not gone yet"),
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("make cgroup and volumes"),
            Self::CreateSandbox { attempt } => write!(f, "make sandbox {attempt}"),
            Self::StopSandbox => f.write_str("stop what is left of the old sandbox, then make a new one"),
            Self::StartContainer { attempt } => write!(f, "start run {attempt}"),
            Self::PullImage => f.write_str("pull the image"),
            Self::StopContainer => f.write_str("stop"),
            Self::KillContainers => f.write_str("kill what still runs"),
            Self::Remove => f.write_str("remove what is left"),
            Self::Await => f.write_str("wait for what is under way"),
            Self::NeedsImage => f.write_str("nothing, until the image is brought to the node"),
            Self::Rest => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for Explanation {
    /// As a tree, one line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pod = self.pod.as_deref().unwrap_or("a pod without a manifest");
        writeln!(f, "{pod} is {}", if self.ready { "Ready" } else { "not Ready" })?;
        write_links(f, self.at, &self.links, "")
    }
}

/// A container's last words may be many lines; the last of them says most, and the tree stays a tree.
fn write_message(f: &mut fmt::Formatter<'_>, message: &str) -> fmt::Result {
    match message.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => write!(f, ": {}", line.replace(char::is_control, " ")),
        None => Ok(()),
    }
}

fn write_links(f: &mut fmt::Formatter<'_>, now: Timestamp, links: &[Link], indent: &str) -> fmt::Result {
    for (index, link) in links.iter().enumerate() {
        let last = index + 1 == links.len();
        let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        write!(f, "{indent}{branch}{}", link.what)?;
        if let Some(since) = link.since {
            write!(f, " [since {}, {} ago]", since.whole_second(), rough(now.since(since)))?;
        }
        if let Some(next) = &link.next {
            write!(f, "; next: {next}")?;
        }
        if let Some(at) = link.next_at {
            write!(f, " in {}, at {}", rough(at.since(now)), at.whole_second())?;
        }
        writeln!(f)?;
        write_links(f, now, &link.because, &format!("{indent}{deeper}"))?;
    }
    Ok(())
}

/// To the second, or to the minute if it is hours.
fn rough(time: std::time::Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 3600 => short_duration(seconds),
        seconds => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_last_words_is_told_in_one_line_and_times_as_one_reads_them() {
        let ended = What::Ended {
            attempt: 1,
            exit_code: 128,
            reason: "ContainerCannotRun".into(),
            message: "noise\nexec: \"/x\": no\tsuch file\n\n".into(),
        };
        let at = Timestamp::from_nanos(7_500_000_000);
        let cause = Link { since: Some(Timestamp::from_nanos(3_900_000_000)), ..link(ended, None) };
        let down = What::ContainerDown { name: "app".into() };
        let next_at = Some(at + std::time::Duration::from_secs(3_700));
        let mut top = link(down, Some(Next::StartContainer { attempt: 2 }));
        top = Link { next_at, because: vec![cause], ..top };
        let told = Explanation { pod: Some("a/b".into()), ready: false, at, links: vec![top] };
        let text = "a/b is not Ready\n\
            └─ container app does not run; next: start run 2 in 1h1m, at 1970-01-01T01:01:47Z\n   \
            └─ run 1 ended with exit code 128 (ContainerCannotRun): exec: \"/x\": no such file \
            [since 1970-01-01T00:00:03Z, 3s ago]\n";
        assert_eq!(told.to_string(), text);
        assert!(serde_json::to_string(&told).is_ok_and(|json| json.contains("1970-01-01T00:00:03.9Z")));
    }
}
