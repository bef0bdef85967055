//! `pintle.v1.Images` on the engine: import and pull with progress.
//!
//! In: an archive in chunks, or an image's name. Out: progress as it is made, then what came of it. Progress that nobody
//! reads in time is left out; outcomes never are.

use std::{
    collections::HashMap,
    io::{self, Read},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::Stream;
use pintle_cri_api::{
    ext::{self, images_server::Images, import_event, progress::Phase, pull_event},
    v1 as cri,
};
use pintle_image::{ImportOptions, Progress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::bytes::Bytes;
use tonic::{Request, Response, Status, Streaming};

use super::{Reply, to_image_status, to_status};
use crate::{Engine, engine::images};

/// How many messages to, or chunks from, a caller wait at most.
const QUEUE: usize = 64;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Images for Engine {
    type ImportStream = Events<ext::ImportEvent>;
    type PullStream = Events<ext::PullEvent>;

    async fn import(&self, request: Request<Streaming<ext::Chunk>>) -> Reply<Self::ImportStream> {
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.unwrap_or_default();
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let options = first.options.unwrap_or_default();
        let (feed, archive) = mpsc::channel(QUEUE);
        let (events, stream) = mpsc::channel(QUEUE);
        tokio::spawn(feed_archive(first.data, chunks, feed));
        tokio::spawn(import(engine, options, ChunkReader::new(archive), events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pull(&self, request: Request<ext::PullRequest>) -> Reply<Self::PullStream> {
        let request = request.into_inner();
        let auth = images::auth(request.auth.map(cri_auth)).map_err(|error| to_status(&error))?;
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let (events, stream) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let progress = Reporter::new(events.clone(), |p| ext::PullEvent {
                event: Some(pull_event::Event::Progress(p)),
            });
            let pulled = engine.pull_image(&request.image, auth, Some(Arc::new(progress))).await;
            let last = pulled
                .map_err(|error| to_image_status(&error))
                .map(|image_ref| ext::PullEvent { event: Some(pull_event::Event::ImageRef(image_ref)) });
            tell(&events, last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn import(
    engine: Arc<Engine>,
    options: ext::ImportOptions,
    archive: ChunkReader,
    events: mpsc::Sender<Result<ext::ImportEvent, Status>>,
) {
    let event = |event| ext::ImportEvent { event: Some(event) };
    let progress = Reporter::new(events.clone(), move |p| event(import_event::Event::Progress(p)));
    let options = ImportOptions {
        tag: Some(options.tag).filter(|tag| !tag.is_empty()),
        progress: Some(Arc::new(progress)),
    };
    match engine.import_images(archive, options).await {
        Ok(imported) => {
            for image in imported {
                let image =
                    ext::ImportedImage { image_id: image.id, repo_tags: image.repo_tags, size: image.size };
                tell(&events, Ok(event(import_event::Event::Imported(image)))).await;
            }
        }
        Err(error) => tell(&events, Err(to_image_status(&error))).await,
    }
}

/// Tells a caller; one who has gone away does not mind.
async fn tell<T>(events: &mpsc::Sender<Result<T, Status>>, event: Result<T, Status>) {
    if events.send(event).await.is_err() {
        tracing::debug!("nobody waits for this outcome any more");
    }
}

/// Passes the chunks of a call on to the thread that reads the archive.
async fn feed_archive(
    first: Bytes,
    mut chunks: Streaming<ext::Chunk>,
    feed: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut next = Ok(first);
    loop {
        if feed.send(next).await.is_err() {
            return;
        }
        next = match chunks.message().await {
            Ok(Some(chunk)) => Ok(chunk.data),
            Ok(None) => return,
            Err(status) => Err(io::Error::other(format!("the archive broke off: {}", status.message()))),
        };
    }
}

/// The chunks of a call, as a file to read. Blocks.
#[derive(Debug)]
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: io::Cursor<Bytes>,
}

impl ChunkReader {
    fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { chunks, current: io::Cursor::default() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = io::Cursor::new(chunk?),
                None => return Ok(0),
            }
        }
    }
}

/// Turns the image store's calls into messages. Called from several threads; never waits.
struct Reporter<T, F> {
    events: mpsc::Sender<Result<T, Status>>,
    message: F,
    totals: Mutex<HashMap<String, u64>>,
}

impl<T, F> std::fmt::Debug for Reporter<T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl<T, F> Reporter<T, F> {
    fn new(events: mpsc::Sender<Result<T, Status>>, message: F) -> Self {
        Self { events, message, totals: Mutex::default() }
    }
}

impl<T: Send, F: Fn(ext::Progress) -> T + Send + Sync> Reporter<T, F> {
    fn report(&self, blob: &str, phase: Phase, done: Option<u64>) {
        let total =
            self.totals.lock().unwrap_or_else(PoisonError::into_inner).get(blob).copied().unwrap_or_default();
        let progress = ext::Progress {
            blob: blob.to_owned(),
            phase: phase.into(),
            done_bytes: done.unwrap_or(total),
            total_bytes: total,
        };
        if self.events.try_send(Ok((self.message)(progress))).is_err() {
            tracing::trace!(blob, "progress that nobody reads in time");
        }
    }
}

impl<T: Send, F: Fn(ext::Progress) -> T + Send + Sync> Progress for Reporter<T, F> {
    fn started(&self, digest: &str, total: u64) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.to_owned(), total);
        self.report(digest, Phase::Downloading, Some(0));
    }

    fn advanced(&self, digest: &str, done: u64) {
        self.report(digest, Phase::Downloading, Some(done));
    }

    fn finished(&self, digest: &str) {
        self.report(digest, Phase::Done, None);
    }
}

fn cri_auth(auth: ext::RegistryAuth) -> cri::AuthConfig {
    cri::AuthConfig {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}
