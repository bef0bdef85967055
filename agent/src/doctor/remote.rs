//! A running engine, asked over its socket (`pintle.v1.Doctor`).
//!
//! In: the socket. Out: what the engine holds; having it give something back.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use pintle_cri_api::ext;
use pintle_runtime::doctor::{EngineSide, Held, Holds, Release, Stopped};
use pintle_runtime::{Error, Layout};
use tonic::transport::Channel;

/// How long a daemon that has the lock may take to serve: it adopts its pods first.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// The first pause before asking a daemon again. Each is twice the one before, so that there are a dozen of them in all and none
/// makes it last twice as long as it has to. There is no event to wait for: a daemon that ends leaves no trace but its lock.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Who has the state directory.
#[derive(Debug)]
pub(super) enum Holder {
    /// A daemon that answers.
    Daemon(Channel),
    /// Nobody, and nobody can while this is held.
    Nobody(Stopped),
}

/// Takes the lock, or connects to the daemon that has it; one that starts or ends is waited for.
pub(super) async fn holder(layout: &Layout, socket: &Path) -> anyhow::Result<Holder> {
    let endpoint = format!("unix://{}", socket.display());
    let deadline = tokio::time::Instant::now() + SERVE_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(stopped) = Stopped::lock(layout)? {
            return Ok(Holder::Nobody(stopped));
        }
        match pintle_cri_api::connect(&endpoint).await {
            Ok(channel) => return Ok(Holder::Daemon(channel)),
            Err(_) if tokio::time::Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
            Err(e) => {
                return Err(e).context(
                    "an agent or runtime holds the state directory and does not answer (--listen names its socket)",
                );
            }
        }
        pause *= 2;
    }
}

/// The engine behind the socket.
#[derive(Debug)]
pub(super) struct Remote {
    channel: Channel,
}

impl Remote {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }
}

#[async_trait::async_trait]
impl EngineSide for Remote {
    async fn holds(&self) -> Result<Option<Holds>, Error> {
        let mut client = pintle_cri_api::ext_doctor_client(self.channel.clone());
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.holds(ext::HoldsRequest {})).await;
        let held = answer.map_err(|_| late())?.map_err(|status| refused(&status))?.into_inner();
        let all = |held: Vec<ext::Held>| {
            held.into_iter().map(|one| Held { id: one.id, busy: one.busy }).collect::<Vec<_>>()
        };
        Ok(Some(Holds {
            sandboxes: all(held.sandboxes),
            containers: all(held.containers),
            images_busy: held.images_busy,
        }))
    }

    async fn release(&self, release: Release) -> Result<(), Error> {
        let mut client = pintle_cri_api::ext_doctor_client(self.channel.clone());
        let Release { sandboxes, containers, images } = release;
        let request = ext::ReleaseRequest { sandboxes, containers, images };
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.release(request)).await;
        answer.map_err(|_| late())?.map(drop).map_err(|status| refused(&status))
    }
}

fn late() -> Error {
    Error::DeadlineExceeded(format!("the running engine did not answer in {ANSWER_LIMIT:?}"))
}

fn refused(status: &tonic::Status) -> Error {
    Error::FailedPrecondition(format!("the running engine: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[tokio::test]
    async fn a_daemon_that_ends_before_it_serves_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&pintle_runtime::EngineConfig::new(dir.path(), dir.path()));
        let lock = File::create(layout.lock()).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        let socket = dir.path().join("socket");
        let (found, ()) = tokio::join!(holder(&layout, &socket), async {
            tokio::task::yield_now().await;
            drop(lock);
        });
        assert!(matches!(found.unwrap(), Holder::Nobody(_)));
    }
}
