//! CreateContainer: names, attempts, repeated and broken-off calls, errors.

use std::time::Duration;

use super::{NOBODY, prelude::*};

const CODE: &str = "containerd 1.6 answers with Unknown; without the code a client cannot tell a bad request from a broken \
                    runtime, and Pintle is right";

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "a container that was made is created and not running",
            "creates a new container in the specified sandbox",
            |run: Run| async move {
                let pod = run.shared().await?;
                let id = pod.create(|_| {}).await?;
                let status = run.status(&id).await?;
                same("the state", status.state(), v1::ContainerState::ContainerCreated)?;
                same("the times", (status.started_at, status.finished_at), (0, 0))
            },
        ),
        case(
            "metadata, labels and annotations come back as they were given",
            "annotations must not be altered by the runtime",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                config.labels = labels(&[("a.b/c", "1"), ("empty", "")]);
                config.annotations = labels(&[("note", "ä\n{}")]);
                config.metadata.get_or_insert_default().attempt = 7;
                let id = pod.try_create(config.clone()).await?;
                let status = run.status(&id).await?;
                same("labels", status.labels, config.labels)?;
                same("annotations", status.annotations, config.annotations)?;
                same("metadata", status.metadata, config.metadata)
            },
        ),
    ];
    all.extend(names());
    all.extend(bad_requests());
    all
}

fn names() -> Vec<Case> {
    vec![
        case(
            "attempts of one name stand side by side",
            "(name, attempt) is unique within a sandbox",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                let first = pod.try_create(config.clone()).await?;
                config.metadata.get_or_insert_default().attempt = 1;
                let second = pod.try_create(config).await?;
                ensure!(first != second, "both are {first}");
                Ok(())
            },
        ),
        case(
            "one name and attempt twice is the same container or exists already",
            "(name, attempt) is unique within a sandbox for the entire lifetime of the sandbox",
            |run: Run| async move {
                let pod = run.shared().await?;
                let config = pod.container();
                let first = pod.try_create(config.clone()).await?;
                match pod.try_create(config.clone()).await {
                    Ok(id) => same("the second container", &id, &first)?,
                    Err(status) => same("the code", status.code(), Code::AlreadyExists)?,
                }
                let other = v1::ContainerConfig { command: words(&["/bin/true"]), ..config };
                refused(pod.try_create(other).await, &[Code::AlreadyExists]).map(drop)
            },
        )
        .containerd("Unknown", CODE),
        case(
            "two pods may have containers of one name",
            "(name, attempt) is unique within a sandbox",
            |run: Run| async move {
                let (shared, own) = (run.shared().await?, run.pod().await?);
                let config = shared.container();
                let one = shared.try_create(config.clone()).await?;
                let two = own.try_create(config).await?;
                ensure!(one != two, "both are {one}");
                Ok(())
            },
        ),
        case(
            "a call that its client broke off does not keep the container's name",
            "a client that timed out asks for the same name and attempt again and must get it",
            |run: Run| async move {
                let pod = run.shared().await?;
                for milliseconds in [1, 3, 10, 30] {
                    let config = pod.container();
                    let mut request = tonic::Request::new(v1::CreateContainerRequest {
                        pod_sandbox_id: pod.id.clone(),
                        config: Some(config.clone()),
                        sandbox_config: Some(pod.config.clone()),
                    });
                    request.set_timeout(Duration::from_millis(milliseconds));
                    drop(run.cri().create_container(request).await);
                    let id = pod.try_create(config).await?;
                    run.start(&id).await?;
                }
                Ok(())
            },
        )
        .containerd_at_times(
            "reserved",
            "containerd answers \"name is reserved\" until it has noticed that the client is gone; Pintle is right: the second \
             call gets what the first one makes",
        ),
        case(
            "the name of a removed container is free again",
            "after RemoveContainer nothing of it is left",
            |run: Run| async move {
                let pod = run.shared().await?;
                let config = pod.container();
                let first = pod.try_create(config.clone()).await?;
                run.remove(&first).await?;
                let second = pod.try_create(config).await?;
                ensure!(first != second, "the id {first} came back");
                Ok(())
            },
        ),
    ]
}

fn bad_requests() -> Vec<Case> {
    vec![
        case(
            "a sandbox that is not there is not found",
            "creates a new container in the specified sandbox",
            |run: Run| async move {
                let mut request = v1::CreateContainerRequest {
                    pod_sandbox_id: NOBODY.to_owned(),
                    config: Some(run.shared().await?.container()),
                    sandbox_config: Some(run.config()),
                };
                refused(run.cri().create_container(request.clone()).await, &[Code::NotFound])?;
                request.pod_sandbox_id = String::new();
                let codes = [Code::NotFound, Code::InvalidArgument];
                refused(run.cri().create_container(request).await, &codes).map(drop)
            },
        )
        .containerd(
            "Unknown instead of",
            "containerd 1.6 answers Unknown where an id is empty; Pintle is right",
        ),
        case(
            "an image that is not there is not found",
            "image to use; pulling it is PullImage's task",
            |run: Run| async move {
                let pod = run.shared().await?;
                let missing = Some(image("localhost/no-such-image:1"));
                let config = v1::ContainerConfig { image: missing, ..pod.container() };
                refused(pod.try_create(config).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "a container without a name, or without an image, is a bad request",
            "the metadata identifies the container; the image is what it runs",
            |run: Run| async move {
                let pod = run.shared().await?;
                let nameless = v1::ContainerConfig { metadata: None, ..pod.container() };
                refused(pod.try_create(nameless).await, &[Code::InvalidArgument])?;
                let without = v1::ContainerConfig { image: None, ..pod.container() };
                refused(pod.try_create(without).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("Unknown", CODE),
        case(
            "a container without a configuration is a bad request",
            "config of the container",
            |run: Run| async move {
                let pod_sandbox_id = run.shared().await?.id;
                let request = v1::CreateContainerRequest { pod_sandbox_id, ..Default::default() };
                refused(run.cri().create_container(request).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("instead of", "containerd 1.6 panics on it, or answers Unknown; Pintle is right"),
        case(
            "a create that fails leaves nothing",
            "a container that could not be made is not there",
            |run: Run| async move {
                let pod = run.pod().await?;
                let mut config = pod.container();
                config.mounts = vec![mount(std::path::Path::new("/proc/version/no-such"), "/x")];
                fails(pod.try_create(config.clone()).await)?;
                let filter = v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
                let request = v1::ListContainersRequest { filter: Some(filter) };
                same("the list", run.cri().list_containers(request).await?.into_inner().containers.len(), 0)?;
                config.mounts = Vec::new();
                pod.try_create(config).await?;
                Ok(())
            },
        ),
        case(
            "a log path that leads out of the pod's directory is refused",
            "log_path is relative to the sandbox's log_directory",
            |run: Run| async move {
                let pod = run.shared().await?;
                let config = v1::ContainerConfig { log_path: "../../x.log".to_owned(), ..pod.container() };
                refused(pod.try_create(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd(
            "it was not refused",
            "containerd joins the two and writes wherever that is; Pintle is right",
        ),
    ]
}
