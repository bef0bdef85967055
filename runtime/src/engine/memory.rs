//! Keeps the daemon small while it has nothing to do.
//!
//! In: a note whenever something happened to a pod or an image. Out: once nothing has happened for a while, the memory
//! that the work took goes back to the kernel: free heap, and the mapping of code that ran. It never runs beside work:
//! making pods is not slowed, and a page of code that is wanted again is still in the page cache.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{
    blocking,
    error::{Error, Result},
};
use crate::sys::memory;

/// How long nothing must have happened: longer than tokio keeps a blocking thread that has nothing to do (10 s), so that
/// their stacks are gone as well.
const QUIET: Duration = Duration::from_secs(12);

/// Gives memory back at once and after each time of work, until it is dropped.
pub(crate) async fn keep_small(work: Arc<Notify>) {
    loop {
        if let Err(error) = blocking(give_back).await {
            tracing::debug!(error = error.chain(), "what the program's code takes stays as it is");
        }
        work.notified().await;
        while tokio::time::timeout(QUIET, work.notified()).await.is_ok() {}
    }
}

fn give_back() -> Result<()> {
    memory::trim_heap();
    memory::unmap_code().map_err(Error::io("reading the mappings of", "/proc/self"))
}
