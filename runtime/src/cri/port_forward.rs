//! The call for a client that connects to ports in a pod: PortForward.

use pintle_cri_api::v1 as cri;

use crate::{Engine, Result};

pub(super) fn forward(
    engine: &Engine,
    request: &cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse> {
    let url = engine.port_forward_url(&request.pod_sandbox_id, &request.port)?;
    Ok(cri::PortForwardResponse { url })
}
