//! The stream of container events over the death of the daemon, as a client on the socket sees it.

#![allow(clippy::panic, reason = "helpers of tests fail by panicking")]

use pintle_cri_api::v1::{self, ContainerEventType as Kind};
use pintle_integration::{Manifest, Node, time_out, wait_until};
use tokio::sync::mpsc;

/// Events of a node's socket, read by a thread of its own from the moment it is subscribed until the stream ends.
struct Events {
    received: mpsc::UnboundedReceiver<v1::ContainerEventResponse>,
}

impl Events {
    fn subscribe(endpoint: &str) -> Self {
        let (send, received) = mpsc::unbounded_channel();
        let (subscribed, told) = std::sync::mpsc::channel();
        let endpoint = endpoint.to_owned();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
            runtime.block_on(async {
                let channel = pintle_cri_api::connect(&endpoint).await.expect("the socket answers");
                let mut client = pintle_cri_api::runtime_client(channel);
                let stream = client.get_container_events(v1::GetEventsRequest {}).await.expect("it streams");
                subscribed.send(()).expect("the test waits");
                let mut stream = stream.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    if send.send(event).is_err() {
                        return;
                    }
                }
            });
        });
        told.recv_timeout(time_out(30)).expect("the subscription comes about");
        Self { received }
    }

    /// Everything up to and with an event of a kind about somebody.
    fn until(&mut self, id: &str, kind: Kind) -> Vec<v1::ContainerEventResponse> {
        let mut all = Vec::new();
        wait_until(&format!("{kind:?} of {id}"), || {
            while let Ok(event) = self.received.try_recv() {
                all.push(event);
            }
            all.iter().any(|event| is(event, id, kind)).then_some(())
        });
        all
    }
}

fn is(event: &v1::ContainerEventResponse, id: &str, kind: Kind) -> bool {
    event.container_id == id && event.container_event_type() == kind
}

#[test]
fn a_client_that_comes_back_after_the_daemon_was_killed_is_told_once_what_ended_meanwhile() {
    let mut node = Node::start();
    let ends = Manifest::sleeper("ends").spec("restartPolicy", "Never");
    node.manifest("ends.yaml", &ends.shell("while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7"));
    node.manifest("stays.yaml", &Manifest::sleeper("stays"));
    node.wait_ready("stays");
    node.wait_ready("ends");
    let (ended, stays) = (node.container("ends", "app"), node.container("stays", "app"));
    let mut before = Events::subscribe(&node.endpoint());
    node.exec("ends", "app", &["sh", "-c", "(sleep 1; touch /tmp/end) >/dev/null 2>&1 &"]);
    node.kill_agent();
    wait_until("the container to end", || {
        (!std::path::Path::new(&format!("/proc/{}", ended.pid)).exists()).then_some(())
    });
    assert!(before.received.blocking_recv().is_none(), "nobody was left to tell it");

    node.start_agent();
    let mut after = Events::subscribe(&node.endpoint());
    let told = after.until(&ended.id, Kind::ContainerStoppedEvent);
    let event =
        told.iter().find(|event| is(event, &ended.id, Kind::ContainerStoppedEvent)).expect("it was told");
    let status =
        event.containers_statuses.iter().find(|status| status.id == ended.id).expect("with its status");
    assert_eq!(status.exit_code, 7);
    // The agent, which follows the same events, knows it too; and nothing of it is told twice in one stream.
    node.wait_pod("ends", "ended", |pod| pod["status"]["phase"] == "Failed");
    node.remove_manifest("stays.yaml");
    let rest = after.until(&stays.id, Kind::ContainerDeletedEvent);
    let stops = told.iter().chain(&rest).filter(|event| is(event, &ended.id, Kind::ContainerStoppedEvent));
    assert_eq!(stops.count(), 1);
    node.remove_manifest("ends.yaml");
    node.wait_gone("ends");
    node.finish();
}
