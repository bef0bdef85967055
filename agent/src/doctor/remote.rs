//! A running engine, asked over its socket (`pintle.v1.Doctor`).
//!
//! In: the socket. Out: what the engine holds; having it give something back.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use pintle_cri_api::ext;
use pintle_runtime::Error;
use pintle_runtime::doctor::{EngineSide, Held, Holds, Release};
use tonic::transport::Channel;

/// How long a daemon that has the lock may take to serve: it adopts its pods first.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
const SERVE_RETRY: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Connects to the daemon that holds the lock.
pub(super) async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let endpoint = format!("unix://{}", socket.display());
    let deadline = tokio::time::Instant::now() + SERVE_LIMIT;
    loop {
        match pintle_cri_api::connect(&endpoint).await {
            Ok(channel) => return Ok(channel),
            Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(SERVE_RETRY).await,
            Err(e) => {
                return Err(e).context(
                    "an agent or runtime holds the state directory and does not answer (--listen names its socket)",
                );
            }
        }
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
