//! Actions, statuses and the node as text, for the expectations in scenario files.
//!
//! In: values. Out: lines. It knows nothing of the clock or the agent.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1 as api;
use pintle_core::model::{Action, ContainerState};

use super::node::Node;

/// Whether the condition Ready is met.
pub fn is_ready(status: &api::PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// An action on one line.
pub fn describe(action: &Action) -> String {
    match action {
        Action::Prepare => "prepare".to_owned(),
        Action::PullImage { image, container, attempt } => format!("pull {image} for {container}#{attempt}"),
        Action::CreateSandbox { attempt } => format!("create sandbox {attempt}"),
        Action::StartContainer { name, attempt, back_off_step, sandbox } => {
            format!("start {name}#{attempt} in {sandbox}, step {back_off_step}")
        }
        Action::ResumeContainer { id, .. } => format!("resume {id}"),
        Action::StopContainer { id, grace, why } => format!("stop {id} within {grace:?} ({why})"),
        Action::RemoveContainer { id } => format!("remove {id}"),
        Action::StopSandbox { id } => format!("stop sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Action::CleanUp => "clean up".to_owned(),
    }
}

/// On one line for the pod and one for each container.
pub fn status_text(status: &api::PodStatus) -> String {
    let mut text =
        format!("  phase={} ready={}", status.phase.as_deref().unwrap_or("none"), is_ready(status));
    if let Some(ip) = &status.pod_ip {
        write!(text, " ip={ip}").unwrap();
    }
    for condition in status.conditions.iter().flatten() {
        if let Some(reason) = &condition.reason {
            write!(text, " {}={reason}", condition.type_).unwrap();
        }
    }
    for container in status.container_statuses.iter().flatten() {
        let name = &container.name;
        let state = container.state.as_ref().map(state_text).unwrap_or_default();
        write!(text, "\n  {name}={state} {name}.restarts={}", container.restart_count).unwrap();
        if let Some(last) = &container.last_state {
            write!(text, " {name}.last={}", state_text(last)).unwrap();
        }
        let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
        if let Some(message) = waiting.and_then(|w| w.message.as_ref()) {
            write!(text, " \"{message}\"").unwrap();
        }
    }
    text
}

fn state_text(state: &api::ContainerState) -> String {
    match (&state.running, &state.waiting, &state.terminated) {
        (Some(_), _, _) => "running".to_owned(),
        (_, Some(waiting), _) => format!("waiting:{}", waiting.reason.as_deref().unwrap_or_default()),
        (_, _, Some(ended)) => {
            format!("terminated:{}:{}", ended.reason.as_deref().unwrap_or_default(), ended.exit_code)
        }
        (None, None, None) => "none".to_owned(),
    }
}

/// What is on the node, a line for each thing.
pub fn node_text(node: &Node) -> String {
    let mut text = String::new();
    for (uid, pod) in &node.pods {
        for sandbox in &pod.sandboxes {
            let state = if sandbox.ready { "ready" } else { "not ready" };
            write!(text, "\n  {uid} {} attempt {} {state}", sandbox.id, sandbox.attempt).unwrap();
        }
        for container in &pod.containers {
            let state = match &container.state {
                ContainerState::Created => "created".to_owned(),
                ContainerState::Running { .. } => "running".to_owned(),
                ContainerState::Exited { exit_code, .. } => format!("exited {exit_code}"),
                ContainerState::Unknown => "unknown".to_owned(),
            };
            write!(
                text,
                "\n  {uid} {} #{} in {}: {state}",
                container.id, container.attempt, container.sandbox
            )
            .unwrap();
        }
        if pod.resources.directory {
            write!(text, "\n  {uid} directory, cgroup, volumes").unwrap();
        }
    }
    if text.is_empty() { "  nothing".to_owned() } else { text.trim_start_matches('\n').to_owned() }
}
