//! RuntimeConfig: what a runtime tells a kubelet to do.

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "the cgroup driver is told, and does not change",
            "the kubelet does not ask again; the field should not change for its lifecycle",
            |run: Run| async move {
                let ask = async || -> Outcome<v1::RuntimeConfigResponse> {
                    Ok(run.cri().runtime_config(v1::RuntimeConfigRequest::default()).await?.into_inner())
                };
                let first = ask().await?;
                let driver = first.linux.as_ref().map(v1::LinuxRuntimeConfiguration::cgroup_driver);
                same("the driver", driver, Some(v1::CgroupDriver::Cgroupfs))?;
                same("the second answer", ask().await?, first)
            },
        )
        .containerd("Unimplemented", "the call came with Kubernetes 1.28; containerd 1.6 does not know it"),
    ]
}
