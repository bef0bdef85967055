//! `pintle.v1.Images` on the engine: import, pull and verification with progress, and export.
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
    ext::{self, images_server::Images, import_event, progress::Phase, pull_event, verify_event},
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
/// An archive on its way out: bytes of a piece, and how many pieces wait.
const EXPORT_CHUNK: usize = 256 * 1024;
const EXPORT_QUEUE: usize = 8;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Images for Engine {
    type ImportStream = Events<ext::ImportEvent>;
    type PullStream = Events<ext::PullEvent>;
    type ExportStream = Events<ext::Chunk>;
    type VerifyStream = Events<ext::VerifyEvent>;

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
        let asked = images::asked(request.auth.map(cri_auth), std::collections::BTreeMap::new());
        let asked = asked.map_err(|error| to_status(&error))?;
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let (events, stream) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let progress = Reporter::new(events.clone(), |p| ext::PullEvent {
                event: Some(pull_event::Event::Progress(p)),
            });
            let pulled = engine.pull_image(&request.image, asked, Some(Arc::new(progress))).await;
            let last = pulled
                .map_err(|error| to_image_status(&error))
                .map(|image_ref| ext::PullEvent { event: Some(pull_event::Event::ImageRef(image_ref)) });
            tell(&events, last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn export(&self, request: Request<ext::ExportRequest>) -> Reply<Self::ExportStream> {
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let (chunks, stream) = mpsc::channel(EXPORT_QUEUE);
        let images = request.into_inner().images;
        tokio::spawn(async move {
            let writer = ChunkWriter { chunks: chunks.clone(), buffer: Vec::new() };
            if let Err(error) = engine.export_images(images, writer).await {
                tell(&chunks, Err(to_image_status(&error))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn verify(&self, _: Request<ext::VerifyRequest>) -> Reply<Self::VerifyStream> {
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let (events, stream) = mpsc::channel(QUEUE);
        tokio::spawn(verify(engine, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn verify(engine: Arc<Engine>, events: mpsc::Sender<Result<ext::VerifyEvent, Status>>) {
    let event = |event| ext::VerifyEvent { event: Some(event) };
    let progress = Reporter::new(events.clone(), move |p| event(verify_event::Event::Progress(p)));
    let found = match engine.verify_images(Arc::new(progress)).await {
        Ok(found) => found,
        Err(error) => return tell(&events, Err(to_image_status(&error))).await,
    };
    for pintle_image::Damage { what, reason, images } in found.damages {
        let damage = verify_event::Event::Damage(ext::Damage { what, reason, images });
        tell(&events, Ok(event(damage))).await;
    }
    let verified =
        ext::Verified { images: found.images, blobs: found.blobs, bytes: found.bytes, layers: found.layers };
    tell(&events, Ok(event(verify_event::Event::Verified(verified)))).await;
}

/// Hands an archive to a caller, piece by piece. Blocks.
#[derive(Debug)]
struct ChunkWriter {
    chunks: mpsc::Sender<Result<ext::Chunk, Status>>,
    buffer: Vec<u8>,
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(EXPORT_CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == EXPORT_CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.buffer).into();
        let chunk = ext::Chunk { options: None, data };
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the archive any more");
        self.chunks.blocking_send(Ok(chunk)).map_err(gone)
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
        ..ImportOptions::default()
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
