//! The call for a client that joins a container's own process: Attach.

use pintle_cri_api::v1 as cri;
use pintle_streaming::Streams;

use crate::{Engine, Result};

pub(super) fn attach(engine: &Engine, request: cri::AttachRequest) -> Result<cri::AttachResponse> {
    let cri::AttachRequest { container_id, stdin, tty, stdout, stderr, audit_request_id } = request;
    let url = engine.attach_url(&container_id, Streams { stdin, stdout, stderr, tty })?;
    tracing::info!(container = %container_id, audit_request_id, "an attach was asked for");
    Ok(cri::AttachResponse { url })
}
