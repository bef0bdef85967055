//! The stream of events over the change from one engine to the next, and lists as streams.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use pintle_cri_api::v1::{
    self as cri, ContainerEventType as Kind, runtime_service_server::RuntimeService as _,
};
use pintle_runtime::EventStream;
use tonic::Request;

use crate::{
    image,
    support::{Node, Served, eventually, limit, on_a_node, shell},
};

type Told = Vec<cri::ContainerEventResponse>;

/// Reads a stream until an event of a kind about somebody has come.
async fn read_until(stream: &mut EventStream, id: &str, kind: Kind) -> Told {
    let mut told = Told::new();
    loop {
        let next = tokio::time::timeout(limit(), stream.next()).await;
        let event = next.expect("an event is missing").unwrap().unwrap();
        let is_last = event.container_id == id && event.container_event_type() == kind;
        told.push(event);
        if is_last {
            return told;
        }
    }
}

/// How often each was told to have stopped.
fn stops(told: &Told) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for event in told.iter().filter(|event| event.container_event_type() == Kind::ContainerStoppedEvent) {
        *counts.entry(event.container_id.as_str()).or_default() += 1;
    }
    counts
}

/// The status of a container in the event that tells of its end.
fn end<'a>(told: &'a Told, id: &str) -> &'a cri::ContainerStatus {
    let about = |event: &&cri::ContainerEventResponse| {
        event.container_id == id && event.container_event_type() == Kind::ContainerStoppedEvent
    };
    let event = told.iter().find(about).expect("its end is told");
    event.containers_statuses.iter().find(|status| status.id == id).expect("with its status")
}

async fn hog(node: &Node, pod: &str) -> String {
    let made = node.try_container(pod, "hog", |config| {
        config.command = shell("sleep 1; x=$(dd if=/dev/zero bs=1M count=200 2>/dev/null | cat -v)");
        let resources =
            cri::LinuxContainerResources { memory_limit_in_bytes: 24 << 20, ..Default::default() };
        config.linux.as_mut().unwrap().resources = Some(resources);
    });
    let id = made.await.unwrap();
    node.start(&id).await.unwrap();
    id
}

fn kill(pid: &serde_json::Value) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until a supervisor has written down how its container ended.
async fn recorded(node: &Node, id: &str) {
    let record = node.path("state/containers").join(id).join("exit.json");
    eventually("the exit is on disk", || record.exists()).await;
}

#[test]
fn what_ended_while_no_engine_ran_is_told_once_to_everybody_who_comes_back() {
    on_a_node(|mut node| async {
        let (pod, dying) = (node.pod("pod").await, node.pod("dying").await);
        let stays = node.script(&pod, "stays", "exec sleep 1000").await;
        let ends = node.script(&pod, "ends", "sleep 1; exit 3").await;
        let hog = hog(&node, &pod).await;
        let (_, info) = node.pod_status(&dying).await;
        node.drop_engine().await;
        kill(&info["pid"]);
        recorded(&node, &ends).await;
        recorded(&node, &hog).await;
        node.open().await;

        let mut first = node.engine().subscribe();
        node.stop(&stays, 0).await.unwrap();
        let told = read_until(&mut first, &stays, Kind::ContainerStoppedEvent).await;
        let each_once = [&stays, &ends, &hog, &dying].map(|id| (id.as_str(), 1));
        assert_eq!(stops(&told), BTreeMap::from(each_once), "{told:#?}");
        assert_eq!(end(&told, &ends).exit_code, 3);
        assert_eq!(end(&told, &hog).reason, "OOMKilled");
        let not_ready = cri::PodSandboxState::SandboxNotready as i32;
        let about = told.iter().find(|event| event.container_id == dying).unwrap();
        assert_eq!(about.pod_sandbox_status.as_ref().unwrap().state, not_ready);

        // Another client, who comes a little later, and the next engine, should this one be killed before all are back.
        let told = read_until(&mut node.engine().subscribe(), &stays, Kind::ContainerStoppedEvent).await;
        assert_eq!(stops(&told), BTreeMap::from(each_once));
        drop(first);
        node.drop_engine().await;
        node.open().await;
        let mut third = node.engine().subscribe();
        node.remove(&stays).await.unwrap();
        let told = read_until(&mut third, &stays, Kind::ContainerDeletedEvent).await;
        assert_eq!(stops(&told), BTreeMap::from(each_once));
        drop(third);
        node.remove_pod(&pod).await;
        node.remove_pod(&dying).await;
        node
    });
}

#[test]
fn what_everybody_has_been_told_of_is_not_told_again() {
    on_a_node(|mut node| async {
        let pod = node.pod("pod").await;
        let old = node.script(&pod, "old", "exit 0").await;
        node.ended(&old).await;
        node.drop_engine().await;
        // As if it had been long ago: the last engine has told of something later.
        let lock = std::fs::File::options().write(true).open(node.path("state/pintle.lock")).unwrap();
        lock.set_modified(SystemTime::now() + Duration::from_secs(120)).unwrap();
        node.open().await;
        let mut events = node.engine().subscribe();
        let new = node.script(&pod, "new", "exit 0").await;
        let told = read_until(&mut events, &new, Kind::ContainerStoppedEvent).await;
        let kinds = [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent, Kind::ContainerStoppedEvent];
        assert!(told.iter().map(cri::ContainerEventResponse::container_event_type).eq(kinds), "{told:#?}");
        assert!(told.iter().all(|event| event.container_id == new));
        drop(events);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_list_as_a_stream_holds_each_entry_once_and_waits_for_its_reader() {
    on_a_node(|node| async {
        let pod = node.pod("pod").await;
        // A few hundred kilobytes of annotations each: more than one message holds.
        let mut made = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let large = |config: &mut cri::ContainerConfig| {
                config.labels.insert("name".to_owned(), name.to_owned());
                config.annotations.insert("large".to_owned(), "x".repeat(200 << 10));
            };
            made.push(node.try_container(&pod, name, large).await.unwrap());
        }
        let engine = node.engine();
        let all = cri::StreamContainersRequest::default();
        let mut slow = engine.as_ref().stream_containers(Request::new(all)).await.unwrap().into_inner();
        let first = slow.next().await.unwrap().unwrap().containers;
        assert_eq!(first.len(), 1);
        node.remove(&made[0]).await.unwrap();
        let rest: Vec<_> = slow.map(|message| message.unwrap().containers).collect().await;
        let ids: Vec<&str> = first.iter().chain(rest.iter().flatten()).map(|c| c.id.as_str()).collect();
        assert_eq!(
            ids,
            made.iter().rev().collect::<Vec<_>>(),
            "the newest first, what there was at the call"
        );

        let served = Served::start(&node).await;
        let mut client = pintle_cri_api::runtime_client(served.channel().await);
        let label_selector = BTreeMap::from([("name".to_owned(), "b".to_owned())]);
        let filter = Some(cri::ContainerFilter { label_selector, ..Default::default() });
        let request = cri::StreamContainersRequest { filter };
        let mut stream = client.stream_containers(request).await.unwrap().into_inner();
        let only = stream.next().await.unwrap().unwrap().containers;
        assert_eq!(only.iter().map(|c| &c.id).collect::<Vec<_>>(), [&made[1]]);
        assert!(stream.next().await.is_none());
        let filter = Some(cri::PodSandboxFilter { id: "none".to_owned(), ..Default::default() });
        let request = cri::StreamPodSandboxesRequest { filter };
        assert!(client.stream_pod_sandboxes(request).await.unwrap().into_inner().next().await.is_none());
        let mut pods = client
            .stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(pods.next().await.unwrap().unwrap().pod_sandboxes[0].id, pod);
        let mut images = pintle_cri_api::image_client(served.channel().await);
        let mut list = images.stream_images(cri::StreamImagesRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.next().await.unwrap().unwrap().images[0].repo_tags, [image::NAME]);
        assert!(list.next().await.is_none());
        drop((client, images, stream, pods, list));
        served.stop().await;
        node.remove_pod(&pod).await;
        node
    });
}
