//! Keeps the daemon's memory small.
//!
//! In: once, at the start, the set-up of the allocator; then a note whenever something happened to a pod or an image. Out: an
//! allocator with few arenas that returns large blocks to the kernel; and, once nothing has happened for a while, the
//! memory that the work took goes back as well: free heap, and the mapping of code that ran. It never runs beside work:
//! making pods is not slowed, and a page of code that is wanted again is still in the page cache.
//!
//! The daemon's threads come and go with the pods' calls; left alone, the C library gives each of them an arena of its own
//! and keeps what was freed there.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    engine::{
        blocking,
        error::{Error, Result},
    },
    sys::memory,
};

/// Arenas: one for each thread that works all the time.
const ARENAS: i32 = 2;
/// Blocks from this size on are mapped, and unmapped when they are freed. Fixed: the C library would raise it up to
/// 32 MiB with the largest block freed.
const MAPPED_FROM: i32 = 128 * 1024;

/// Sets the allocator up. To be called before the first thread is made.
pub fn set_up() {
    memory::bound_allocator(ARENAS, MAPPED_FROM);
}

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
