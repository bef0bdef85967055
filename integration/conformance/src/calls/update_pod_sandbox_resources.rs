//! UpdatePodSandboxResources: the pod's limits were changed.

use super::{NOBODY, prelude::*};

const NEWER: &str = "the call came with Kubernetes 1.33; containerd 1.6 does not know it";

async fn update(run: &Run, id: &str) -> Result<(), tonic::Status> {
    let resources = v1::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        resources: Some(resources),
        ..Default::default()
    };
    run.cri().update_pod_sandbox_resources(request).await.map(drop)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "new limits of a pod are taken, however often they come",
            "called after the kubelet has changed the pod's cgroups; best effort",
            |run: Run| async move {
                let pod = run.pod().await?;
                update(&run, &pod.id).await?;
                update(&run, &pod.id).await?;
                same("the state", run.pod_status(&pod.id).await?.state(), v1::PodSandboxState::SandboxReady)
            },
        )
        .containerd("Unimplemented", NEWER),
        case(
            "UpdatePodSandboxResources of a sandbox that is not there is NotFound",
            "id of the sandbox to update",
            |run: Run| async move { refused(update(&run, NOBODY).await, &[Code::NotFound]).map(drop) },
        )
        .containerd("Unimplemented", NEWER),
    ]
}
