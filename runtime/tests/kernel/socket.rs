//! The engine over its socket, as crictl and a kubelet see it.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use pintle_cri_api::{
    ext,
    v1::{
        self as cri, ContainerEventType as Event, image_service_client::ImageServiceClient,
        runtime_service_client::RuntimeServiceClient,
    },
};
use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Channel};

use crate::{
    image,
    support::{on_a_node, own_pids, shell},
};

type Runtime = RuntimeServiceClient<Channel>;

#[test]
fn r11_a_pods_whole_life_goes_over_the_socket_and_is_told_as_events() {
    on_a_node(|node| async {
        let path = node.path("pintle.sock");
        let listener = pintle_runtime::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let engine = Arc::clone(node.engine());
        let serving = tokio::spawn(engine.serve(listener, async { stopped.await.unwrap_or(()) }));
        let channel = pintle_cri_api::connect(&format!("unix://{}", path.display())).await.unwrap();
        let mut client = pintle_cri_api::runtime_client(channel.clone());
        let mut images = pintle_cri_api::image_client(channel);

        node_is_ready(&mut client).await;
        let mut events = client.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
        let (pod, id) = run(&mut client).await;
        image_is_held(&mut images).await;
        filters_select(&mut client).await;
        remove(&mut client, &pod, &id).await;
        let expected = [
            (&pod, Event::ContainerCreatedEvent),
            (&pod, Event::ContainerStartedEvent),
            (&id, Event::ContainerCreatedEvent),
            (&id, Event::ContainerStartedEvent),
            (&id, Event::ContainerStoppedEvent),
            (&id, Event::ContainerDeletedEvent),
            (&pod, Event::ContainerStoppedEvent),
            (&pod, Event::ContainerDeletedEvent),
        ];
        for (which, kind) in expected {
            let event = events.next().await.unwrap().unwrap();
            assert_eq!((&event.container_id, event.container_event_type()), (which, kind));
        }
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
        assert!(events.next().await.is_none_or(|event| event.is_err()));
        drop((client, images, events));
        node
    });
}

#[test]
fn an_archive_is_imported_over_the_socket_with_progress() {
    on_a_node(|node| async {
        let path = node.path("pintle.sock");
        let listener = pintle_runtime::bind(&path).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let engine = Arc::clone(node.engine());
        let serving = tokio::spawn(engine.serve(listener, async { stopped.await.unwrap_or(()) }));
        let channel = pintle_cri_api::connect(&format!("unix://{}", path.display())).await.unwrap();
        let mut client = pintle_cri_api::ext_images_client(channel);
        let archive = image::archive();
        let options =
            ext::ImportOptions { tag: "test.invalid/other:2".to_owned(), size: archive.len() as u64 };
        let mut chunks = vec![ext::Chunk { options: Some(options), data: Vec::new().into() }];
        chunks.extend(
            archive.chunks(64 * 1024).map(|data| ext::Chunk { options: None, data: data.to_vec().into() }),
        );
        let mut events = client.import(tokio_stream::iter(chunks)).await.unwrap().into_inner();
        let mut imported = Vec::new();
        while let Some(event) = events.next().await {
            if let Some(ext::import_event::Event::Imported(image)) = event.unwrap().event {
                imported.push(image);
            }
        }
        assert!(imported[0].repo_tags.contains(&"test.invalid/other:2".to_owned()), "{imported:?}");
        let torn = vec![ext::Chunk { options: None, data: archive[..archive.len() / 2].to_vec().into() }];
        let mut events = client.import(tokio_stream::iter(torn)).await.unwrap().into_inner();
        let mut last = None;
        while let Some(event) = events.next().await {
            last = Some(event);
        }
        assert!(last.unwrap().is_err(), "half an archive is refused");
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
        drop((client, events));
        node
    });
}

async fn node_is_ready(client: &mut Runtime) {
    let version = client.version(cri::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("pintle", "v1"));
    let status = client.status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner();
    assert!(status.status.unwrap().conditions.iter().all(|condition| condition.status));
    let config = client.runtime_config(cri::RuntimeConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver, cri::CgroupDriver::Cgroupfs as i32);
    let attach = client.attach(cri::AttachRequest::default()).await;
    assert_eq!(attach.unwrap_err().code(), Code::NotFound);
}

async fn run(client: &mut Runtime) -> (String, String) {
    let labels: std::collections::BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
    let metadata =
        cri::PodSandboxMetadata { name: "s".to_owned(), uid: "u".to_owned(), ..Default::default() };
    let config =
        cri::PodSandboxConfig { metadata: Some(metadata), labels: labels.clone(), ..Default::default() };
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let security =
        cri::LinuxContainerSecurityContext { namespace_options: Some(own_pids()), ..Default::default() };
    let linux = cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image::NAME.to_owned(), ..Default::default() }),
        command: shell("sleep 1000"),
        labels,
        linux: Some(linux),
        ..Default::default()
    };
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let id = client.create_container(request).await.unwrap().into_inner().container_id;
    client.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    // A prefix of an id will do, as in crictl.
    let exec = cri::ExecSyncRequest { container_id: id[..12].to_owned(), cmd: shell("echo hi"), timeout: 10 };
    assert_eq!(client.exec_sync(exec).await.unwrap().into_inner().stdout, b"hi\n");
    (pod, id)
}

async fn image_is_held(images: &mut ImageServiceClient<Channel>) {
    let listed = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner();
    assert!(listed.images[0].repo_tags.contains(&image::NAME.to_owned()), "{listed:?}");
    let spec = cri::ImageSpec { image: image::NAME.to_owned(), ..Default::default() };
    let held = images.remove_image(cri::RemoveImageRequest { image: Some(spec.clone()) }).await;
    assert_eq!(held.unwrap_err().code(), Code::FailedPrecondition);
    let status = cri::ImageStatusRequest { image: Some(spec), verbose: true };
    let status = images.image_status(status).await.unwrap().into_inner();
    assert!(status.image.is_some() && status.info["info"].contains("FROM_IMAGE"));
    let none = cri::ImageSpec { image: "test.invalid/none".to_owned(), ..Default::default() };
    let none = cri::ImageStatusRequest { image: Some(none), verbose: false };
    assert!(images.image_status(none).await.unwrap().into_inner().image.is_none());
    let away = cri::ImageSpec { image: "127.0.0.1:1/none:1".to_owned(), ..Default::default() };
    let pull = cri::PullImageRequest { image: Some(away), ..Default::default() };
    let unreachable = images.pull_image(pull).await.unwrap_err();
    assert!(unreachable.message().starts_with("RegistryUnavailable: "), "{unreachable}");
    assert_eq!(unreachable.code(), Code::Unknown);
    let usage = images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert!(usage.image_filesystems[0].used_bytes.unwrap().value > 0);
}

async fn filters_select(client: &mut Runtime) {
    for (selector, state, count) in [
        ("web", cri::ContainerState::ContainerRunning, 1),
        ("other", cri::ContainerState::ContainerRunning, 0),
        ("web", cri::ContainerState::ContainerExited, 0),
    ] {
        let filter = cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state: state.into() }),
            label_selector: [("app".to_owned(), selector.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        assert_eq!(client.list_containers(request).await.unwrap().into_inner().containers.len(), count);
    }
}

async fn remove(client: &mut Runtime, pod: &str, id: &str) {
    let (container_id, pod_sandbox_id) = (id.to_owned(), pod.to_owned());
    let stop = cri::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
    client.stop_container(stop).await.unwrap();
    client.remove_container(cri::RemoveContainerRequest { container_id }).await.unwrap();
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    client.stop_pod_sandbox(stop).await.unwrap();
    let removal = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    client.remove_pod_sandbox(removal).await.unwrap();
    let gone = cri::PodSandboxStatusRequest { pod_sandbox_id, verbose: false };
    assert_eq!(client.pod_sandbox_status(gone).await.unwrap_err().code(), Code::NotFound);
}
