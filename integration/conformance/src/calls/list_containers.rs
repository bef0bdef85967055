//! ListContainers: filters, all of them together.

use super::{NOBODY, prelude::*};

pub(super) async fn list(run: &Run, filter: Option<v1::ContainerFilter>) -> Outcome<Vec<v1::Container>> {
    let request = v1::ListContainersRequest { filter };
    Ok(run.cri().list_containers(request).await?.into_inner().containers)
}

/// A container that runs, one that has ended and one that was only made, all of a label of their own.
pub(super) async fn three(run: &Run) -> Outcome<(String, [String; 3])> {
    let pod = run.shared().await?;
    let mine = run.name("label");
    let label = |config: &mut v1::ContainerConfig| {
        config.labels.insert("mine".to_owned(), mine.clone());
    };
    let running = pod.start(label).await?;
    let ended = pod
        .start(|config| {
            label(config);
            config.command = words(&["/bin/true"]);
        })
        .await?;
    run.ended(&ended).await?;
    let created = pod.create(label).await?;
    Ok((mine, [created, running, ended]))
}

pub(super) fn by_label(value: &str) -> v1::ContainerFilter {
    v1::ContainerFilter { label_selector: labels(&[("mine", value)]), ..Default::default() }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "without a filter every container is listed, in whatever state",
            "lists all containers by filters",
            |run: Run| async move {
                let (_, ids) = three(&run).await?;
                for filter in [None, Some(v1::ContainerFilter::default())] {
                    let all = list(&run, filter).await?;
                    for id in &ids {
                        ensure!(all.iter().any(|container| &container.id == id), "{id} is missing");
                    }
                }
                Ok(())
            },
        ),
        case(
            "an id, a state, a sandbox and labels select containers, and all of them together",
            "all those fields are combined with AND",
            filters,
        ),
        case(
            "what no container is, is an empty list of containers and no error",
            "a list of nothing is empty",
            |run: Run| async move {
                let of = |id: &str, pod: &str| v1::ContainerFilter {
                    id: id.to_owned(),
                    pod_sandbox_id: pod.to_owned(),
                    ..Default::default()
                };
                same("by id", list(&run, Some(of(NOBODY, ""))).await?.len(), 0)?;
                same("by sandbox", list(&run, Some(of("", NOBODY))).await?.len(), 0)
            },
        ),
        case(
            "the list tells the same of a container as its status",
            "id, metadata, image, state, created_at, labels, annotations",
            |run: Run| async move {
                let (mine, _) = three(&run).await?;
                let pod = run.shared().await?;
                for container in list(&run, Some(by_label(&mine))).await? {
                    let status = run.status(&container.id).await?;
                    same("the sandbox", &container.pod_sandbox_id, &pod.id)?;
                    same("the state", container.state, status.state)?;
                    same("created_at", container.created_at, status.created_at)?;
                    same("metadata", container.metadata, status.metadata)?;
                    same("labels", container.labels, status.labels)?;
                    same("annotations", container.annotations, status.annotations)?;
                    same("image_id", &container.image_id, &status.image_id)?;
                    ensure!(!container.image_ref.is_empty(), "image_ref is missing");
                }
                Ok(())
            },
        ),
        case(
            "a container names its image by the id that the image service uses",
            "image_id must always match PullImageResponse.image_ref and Image.id of the same image",
            |run: Run| async move {
                let (mine, _) = three(&run).await?;
                let request = v1::ImageStatusRequest { image: Some(image(IMAGE)), verbose: false };
                let known = run.images().image_status(request).await?.into_inner().image.unwrap_or_default();
                for container in list(&run, Some(by_label(&mine))).await? {
                    same("image_id", &container.image_id, &known.id)?;
                }
                Ok(())
            },
        )
        .containerd(
            "image_id is \"\"",
            "the field came with Kubernetes 1.29; containerd 1.6 does not know it",
        ),
    ]
}

async fn filters(run: Run) -> Outcome {
    let (mine, [created, running, ended]) = three(&run).await?;
    let pod = run.shared().await?;
    let ids = async |filter| -> Outcome<Vec<String>> {
        Ok(list(&run, Some(filter)).await?.into_iter().map(|container| container.id).collect())
    };
    let in_state = |state: v1::ContainerState| v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: state.into() }),
        ..by_label(&mine)
    };
    same("created", ids(in_state(v1::ContainerState::ContainerCreated)).await?, vec![created.clone()])?;
    same("running", ids(in_state(v1::ContainerState::ContainerRunning)).await?, vec![running.clone()])?;
    same("ended", ids(in_state(v1::ContainerState::ContainerExited)).await?, vec![ended])?;
    let by_id = v1::ContainerFilter { id: running.clone(), ..Default::default() };
    same("by id", ids(by_id).await?, vec![running.clone()])?;
    let in_pod = v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..by_label(&mine) };
    same("in the pod", ids(in_pod).await?.len(), 3)?;
    let elsewhere = v1::ContainerFilter { pod_sandbox_id: NOBODY.to_owned(), ..by_label(&mine) };
    same("in another pod", ids(elsewhere).await?.len(), 0)?;
    let wrong = v1::ContainerFilter { id: created, ..in_state(v1::ContainerState::ContainerRunning) };
    same("id and state", ids(wrong).await?.len(), 0)
}
