//! GetContainerEvents: what happens, as it happens.

use super::prelude::*;

const NEWER: &str = "the call came with Kubernetes 1.26; containerd 1.6 does not know it";

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a container's life is told in its order",
            "created, started, stopped, deleted",
            |run: Run| async move {
                let mut events =
                    run.cri().get_container_events(v1::GetEventsRequest::default()).await?.into_inner();
                let pod = run.shared().await?;
                let id = pod.start(|config| config.command = shell("exit 3")).await?;
                run.ended(&id).await?;
                run.remove(&id).await?;
                let mut kinds = Vec::new();
                while kinds.len() < 4 {
                    let next = tokio::time::timeout(pintle_integration::time_out(20), events.message()).await;
                    let next = next.map_err(|_| Failure(format!("no more events after {kinds:?}")))??;
                    let event = next.ok_or_else(|| Failure(format!("the stream ends after {kinds:?}")))?;
                    if event.container_id == id {
                        kinds.push(event.container_event_type());
                    }
                }
                use v1::ContainerEventType::{
                    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent,
                    ContainerStoppedEvent,
                };
                let wanted = [
                    ContainerCreatedEvent,
                    ContainerStartedEvent,
                    ContainerStoppedEvent,
                    ContainerDeletedEvent,
                ];
                same("the events", kinds, wanted.to_vec())
            },
        )
        .containerd("Unimplemented", NEWER),
        case(
            "an event carries the pod's and the containers' statuses",
            "sandbox status and container statuses, and the time of the event",
            |run: Run| async move {
                let mut events =
                    run.cri().get_container_events(v1::GetEventsRequest::default()).await?.into_inner();
                let pod = run.shared().await?;
                let id = pod.start(|config| config.command = shell("exit 3")).await?;
                loop {
                    let next = tokio::time::timeout(pintle_integration::time_out(20), events.message()).await;
                    let next = next.map_err(|_| Failure("no such event".to_owned()))??;
                    let event = next.ok_or_else(|| Failure("the stream ends".to_owned()))?;
                    let stopped =
                        event.container_event_type() == v1::ContainerEventType::ContainerStoppedEvent;
                    if event.container_id != id || !stopped {
                        continue;
                    }
                    ensure!(event.created_at > 0, "the time is missing");
                    same("the pod", event.pod_sandbox_status.unwrap_or_default().id, pod.id)?;
                    let status = event.containers_statuses.into_iter().find(|status| status.id == id);
                    let status = status.unwrap_or_default();
                    same("the state", status.state(), v1::ContainerState::ContainerExited)?;
                    return same("the exit code", status.exit_code, 3);
                }
            },
        )
        .containerd("Unimplemented", NEWER),
        case("every reader gets every event", "a stream of its own for each caller", |run: Run| async move {
            let ask = v1::GetEventsRequest::default();
            let mut one = run.cri().get_container_events(ask).await?.into_inner();
            let mut two = run.cri().get_container_events(ask).await?.into_inner();
            let id = run.shared().await?.create(|_| {}).await?;
            for events in [&mut one, &mut two] {
                loop {
                    let next = tokio::time::timeout(pintle_integration::time_out(20), events.message()).await;
                    let next = next.map_err(|_| Failure("no event".to_owned()))??;
                    if next.ok_or_else(|| Failure("the stream ends".to_owned()))?.container_id == id {
                        break;
                    }
                }
            }
            Ok(())
        })
        .containerd("Unimplemented", NEWER),
    ]
}
