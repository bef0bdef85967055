//! The calls that run a command in a container: ExecSync, which waits for it, and Exec, for a client that comes with a URL.

use std::time::Duration;

use pintle_cri_api::v1 as cri;
use pintle_streaming::Streams;

use crate::{Engine, Error, Result};

pub(super) async fn sync(engine: &Engine, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse> {
    let seconds = u64::try_from(request.timeout).map_err(|_| {
        Error::InvalidArgument(format!("timeout: {} is negative; 0 means no limit", request.timeout))
    })?;
    let limit = Some(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let output = engine.arc()?.exec_sync(&request.container_id, request.cmd, limit).await?;
    Ok(cri::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}

pub(super) fn stream(engine: &Engine, request: cri::ExecRequest) -> Result<cri::ExecResponse> {
    let cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr, audit_request_id } = request;
    let url = engine.exec_url(&container_id, cmd, Streams { stdin, stdout, stderr, tty })?;
    tracing::info!(container = %container_id, audit_request_id, "a command was asked for");
    Ok(cri::ExecResponse { url })
}
