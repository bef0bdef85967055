//! ListPodSandbox: filters, all of them together.

use super::{NOBODY, prelude::*};

pub(super) async fn list(run: &Run, filter: Option<v1::PodSandboxFilter>) -> Outcome<Vec<v1::PodSandbox>> {
    let request = v1::ListPodSandboxRequest { filter };
    Ok(run.cri().list_pod_sandbox(request).await?.into_inner().items)
}

pub(super) fn by_label(value: &str) -> v1::PodSandboxFilter {
    v1::PodSandboxFilter { label_selector: labels(&[("mine", value)]), ..Default::default() }
}

/// Two pods of a label of their own, the second one stopped.
pub(super) async fn two(run: &Run) -> Outcome<(String, Pod, Pod)> {
    let mine = run.name("label");
    let label = |config: &mut v1::PodSandboxConfig| {
        config.labels.insert("mine".to_owned(), mine.clone());
    };
    let (ready, stopped) = (run.pod_with(label).await?, run.pod_with(label).await?);
    run.stop_pod(&stopped.id).await?;
    Ok((mine, ready, stopped))
}

pub(super) fn in_state(state: v1::PodSandboxState, filter: v1::PodSandboxFilter) -> v1::PodSandboxFilter {
    v1::PodSandboxFilter { state: Some(v1::PodSandboxStateValue { state: state.into() }), ..filter }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "without a filter, and with an empty one, every sandbox is listed",
            "returns a list of PodSandboxes",
            |run: Run| async move {
                let (_, ready, stopped) = two(&run).await?;
                for filter in [None, Some(v1::PodSandboxFilter::default())] {
                    let all = list(&run, filter).await?;
                    for id in [&ready.id, &stopped.id] {
                        ensure!(all.iter().any(|pod| &pod.id == id), "{id} is missing");
                    }
                }
                Ok(())
            },
        ),
        case(
            "an id, a state and labels select, and all of them together",
            "all those fields are combined with AND",
            |run: Run| async move {
                use v1::PodSandboxState::{SandboxNotready, SandboxReady};
                let (mine, ready, stopped) = two(&run).await?;
                let ids = async |filter| -> Outcome<Vec<String>> {
                    Ok(list(&run, Some(filter)).await?.into_iter().map(|pod| pod.id).collect())
                };
                let id = |id: &str| v1::PodSandboxFilter { id: id.to_owned(), ..Default::default() };
                same("by id", ids(id(&ready.id)).await?, vec![ready.id.clone()])?;
                same("ready", ids(in_state(SandboxReady, by_label(&mine))).await?, vec![ready.id.clone()])?;
                let not_ready = ids(in_state(SandboxNotready, by_label(&mine))).await?;
                same("not ready", not_ready, vec![stopped.id.clone()])?;
                same("both", ids(by_label(&mine)).await?.len(), 2)?;
                same("id and state", ids(in_state(SandboxNotready, id(&ready.id))).await?.len(), 0)?;
                let mut other = by_label(&mine);
                other.label_selector.insert("pod".to_owned(), "another".to_owned());
                same("one label of two", ids(other).await?.len(), 0)
            },
        ),
        case(
            "what no sandbox is, is an empty list and no error",
            "a list of nothing is empty",
            |run: Run| async move {
                let filter = v1::PodSandboxFilter { id: NOBODY.to_owned(), ..Default::default() };
                same("the list", list(&run, Some(filter)).await?.len(), 0)
            },
        ),
        case(
            "the list tells the same of a sandbox as its status",
            "id, metadata, state, created_at, labels, annotations, runtime_handler",
            |run: Run| async move {
                let (mine, ready, stopped) = two(&run).await?;
                for pod in list(&run, Some(by_label(&mine))).await? {
                    let status = run.pod_status(&pod.id).await?;
                    ensure!([&ready.id, &stopped.id].contains(&&pod.id), "{} is not asked for", pod.id);
                    same("the state", pod.state, status.state)?;
                    same("created_at", pod.created_at, status.created_at)?;
                    same("metadata", pod.metadata, status.metadata)?;
                    same("labels", pod.labels, status.labels)?;
                    same("annotations", pod.annotations, status.annotations)?;
                    same("the handler", pod.runtime_handler, status.runtime_handler)?;
                }
                Ok(())
            },
        ),
    ]
}
