//! A blob on its way that does not begin anew when the connection breaks.
//!
//! In: a digest. Out: its bytes, in order. After a break it asks for what is missing (`Range`), of whichever host has it; a host
//! that knows no ranges sends all, and what is here already is passed over. That the parts belong together is seen by the
//! digest at the end, which is checked where the blob is stored.

use std::time::Duration;

use tokio_util::bytes::Bytes;

use crate::Error;
use crate::digest::Digest;
use crate::registry::{BlobStream, Registry};

/// Breaks in a row, with little coming between them, until it is given up.
const BREAKS: u32 = 4;
/// Breaks in all.
const ALL_BREAKS: u32 = 1000;
/// So much between two breaks makes the first forgotten.
const PROGRESS: u64 = 1 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct Download<'a> {
    registry: &'a Registry,
    digest: &'a Digest,
    stream: BlobStream,
    /// Bytes handed out.
    done: u64,
    /// Where the last break was.
    broke_at: u64,
    breaks: u32,
    all_breaks: u32,
}

impl<'a> Download<'a> {
    pub(crate) async fn open(registry: &'a Registry, digest: &'a Digest) -> Result<Self, Error> {
        let stream = registry.blob(digest, 0).await?;
        Ok(Self { registry, digest, stream, done: 0, broke_at: 0, breaks: 0, all_breaks: 0 })
    }

    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// The next bytes, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            let error = match self.stream.next().await? {
                Ok(chunk) => {
                    self.done += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Err(error) => error,
            };
            if let Err(error) = self.resume(error).await {
                return Some(Err(error));
            }
        }
    }

    async fn resume(&mut self, error: Error) -> Result<(), Error> {
        self.breaks = if self.done - self.broke_at >= PROGRESS { 1 } else { self.breaks + 1 };
        self.all_breaks += 1;
        self.broke_at = self.done;
        if !error.is_retryable() || self.breaks >= BREAKS || self.all_breaks >= ALL_BREAKS {
            return Err(error);
        }
        tracing::debug!(blob = %self.digest, at = self.done, %error, "a download broke and goes on");
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.breaks - 1)).await;
        self.stream = self.registry.blob(self.digest, self.done).await?;
        Ok(())
    }
}
