//! The call that runs a command in a container and waits for it: ExecSync.

use std::time::Duration;

use pintle_cri_api::v1 as cri;

use crate::{Engine, Error, Result};

pub(super) async fn sync(engine: &Engine, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse> {
    let seconds = u64::try_from(request.timeout).map_err(|_| {
        Error::InvalidArgument(format!("timeout: {} is negative; 0 means no limit", request.timeout))
    })?;
    let limit = Some(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let output = engine.arc()?.exec_sync(&request.container_id, request.cmd, limit).await?;
    Ok(cri::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}
