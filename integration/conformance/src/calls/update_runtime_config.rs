//! UpdateRuntimeConfig: what a kubelet tells a runtime of the node.

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![case(
        "a configuration that says nothing is taken",
        "if the CIDR is empty, runtimes should omit it",
        |run: Run| async move {
            run.cri().update_runtime_config(v1::UpdateRuntimeConfigRequest::default()).await?;
            let network_config = Some(v1::NetworkConfig { pod_cidr: String::new() });
            let runtime_config = Some(v1::RuntimeConfig { network_config });
            run.cri().update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config }).await?;
            Ok(())
        },
    )]
}
