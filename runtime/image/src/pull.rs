//! Pulls one image: manifest, configuration, then its layers side by side.
//!
//! In: a name and options. Out: an image in the store. Layers are unpacked while they arrive. A layer is fetched under the lock
//! of its blob and placed under the lock of its chain id, so that pulls that share one fetch it once. When one layer fails the
//! others are stopped, and the call returns only after their files are gone.
//!
//! ```text
//!   layer i:  lock chain ─▶ slot, lock blob ─▶ network ──▶ digest, file, decoder, tar ──▶ staged ─▶ wait for i-1 ─▶ placed
//! ```

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc, oneshot, watch};
use tokio_util::bytes::{Buf, Bytes};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::credentials::Login;
use crate::digest::Digest;
use crate::download::Download;
use crate::facts::places;
use crate::hosts::hosts_for;
use crate::install::{Staged, Wanted as WantedLayer};
use crate::layers::Place;
use crate::limits::{self, LayerLimits};
use crate::manifest::{Descriptor, Document, Manifest, OCI_INDEX, parse_config, select_platform};
use crate::policy::{Candidate, Policy};
use crate::reference::Reference;
use crate::registry::{Registry, SILENCE, Wanted};
use crate::store::{Busy, Store};
use crate::{Error, Image, Progress, PullOptions};

/// Chunks between the network and the unpacker.
const CHUNKS: usize = 16;
/// How long a pull waits for a layer that another registry is delivering.
const PATIENCE: Duration = Duration::from_secs(3);
/// Layers of one image that arrive and are unpacked at once, so that a large image leaves room for the others of its registry.
pub(crate) const PARALLEL_LAYERS: usize = 4;

pub(crate) async fn pull(store: &Arc<Store>, name: &str, opts: &PullOptions) -> Result<Image, Error> {
    let reference = Reference::parse(name)?;
    let hosts = hosts_for(&reference.registry, opts.registry_config.as_deref())?;
    let silence = opts.progress_deadline.unwrap_or(SILENCE);
    let registry = Registry::new(hosts, &reference, silence, |host| Login::at(host, &reference, opts))?;
    let work = Work {
        store: Arc::clone(store),
        registry,
        host: reference.registry.clone(),
        slots: Semaphore::new(PARALLEL_LAYERS),
        busy: Arc::new(store.busy()),
        annotations: opts.annotations.clone(),
        policy: opts.policy.clone(),
        progress: opts.progress.clone(),
        cancel: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let result = work.run(&reference).await;
    work.tasks.close();
    work.tasks.wait().await;
    // What arrived before the connection broke helps the next attempt; what came with a lie goes.
    if result.as_ref().is_err_and(|e| !e.is_retryable()) {
        store.want_collection();
    }
    drop(work);
    let store = Arc::clone(store);
    blocking(move || store.collect()).await?;
    result
}

struct Work {
    store: Arc<Store>,
    registry: Registry,
    /// The registry's name: a registry that hangs keeps only its own images waiting.
    host: String,
    slots: Semaphore,
    /// Also held by every task that may outlive a call that was dropped.
    busy: Arc<Busy>,
    annotations: BTreeMap<String, String>,
    policy: Option<Policy>,
    progress: Option<Arc<dyn Progress>>,
    cancel: CancellationToken,
    /// Tasks on blocking threads, which cannot be stopped but end soon after their stream does.
    tasks: TaskTracker,
}

/// One layer of the image.
struct Layer {
    descriptor: Descriptor,
    place: Place,
    limits: LayerLimits,
}

impl Layer {
    fn wanted(&self) -> WantedLayer {
        let diff_id = self.place.diff_id.clone();
        WantedLayer { layer: self.descriptor.clone(), diff_id, limits: self.limits }
    }
}

impl Work {
    async fn run(&self, reference: &Reference) -> Result<Image, Error> {
        let wanted = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Wanted::Digest(digest),
            (None, tag) => Wanted::Tag(tag.as_deref().unwrap_or("latest")),
        };
        let (bytes, digest) = self.registry.manifest(&wanted).await?;
        let size = bytes.len() as u64;
        let document = Document::parse(&bytes)?;
        let media_type = match &document {
            Document::Manifest(manifest) => manifest.media_type.clone(),
            Document::Index(_) => OCI_INDEX.to_owned(),
        };
        self.put(bytes).await?;
        if let Some(policy) = &self.policy {
            let manifest = self.store.content.path(&digest);
            policy.check_pull(&Candidate { reference, digest: &digest, manifest }).await?;
        }
        let manifest = self.image_manifest(document).await?;
        self.layers(&manifest).await?;
        let annotations = Some(self.annotations.clone()).filter(|given| !given.is_empty());
        let descriptor = Descriptor { media_type, digest: digest.clone(), size, annotations, platform: None };
        let mut names = vec![format!("{}@{digest}", reference.name())];
        if reference.digest.is_none() {
            names.insert(0, reference.stored());
        }
        let store = Arc::clone(&self.store);
        blocking(move || store.register(&names, &descriptor)).await
    }

    /// The manifest for this machine.
    async fn image_manifest(&self, document: Document) -> Result<Manifest, Error> {
        let entries = match document {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(entries) => entries,
        };
        let chosen = select_platform(&entries)?;
        let (bytes, digest) = self.registry.manifest(&Wanted::Digest(&chosen.digest)).await?;
        if bytes.len() as u64 != chosen.size {
            let reason = format!("it has {} bytes, the index says {}", bytes.len(), chosen.size);
            return Err(Error::corrupt(format!("manifest {digest}"), reason));
        }
        let Document::Manifest(manifest) = Document::parse(&bytes)? else {
            return Err(Error::unsupported("an index inside an index", "one level is"));
        };
        self.put(bytes).await?;
        Ok(manifest)
    }

    async fn layers(&self, manifest: &Manifest) -> Result<(), Error> {
        let config = self.config(&manifest.config).await?;
        let checked = parse_config(&config, manifest.layers.len())?;
        let layers = manifest.layers.iter().cloned().zip(places(&checked.diff_ids));
        let limits = LayerLimits::for_image_of(manifest.layers.len());
        let (mut below, mut futures) = (None, Vec::new());
        for (descriptor, place) in layers {
            let (done, done_receiver) = watch::channel(false);
            let under = below.replace(done_receiver);
            futures.push(self.stoppable(Layer { descriptor, place, limits }, under, done));
        }
        let results = futures_util::future::join_all(futures).await;
        // The first real error, not one of those who were stopped because of it.
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|e| matches!(e, Error::Cancelled { .. }));
        errors.into_iter().next().map_or(Ok(()), Err)
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if self.store.content.contains_as(descriptor)? {
            return self.store.content.read(&descriptor.digest, limits::CONFIG_BYTES);
        }
        let mut stream = Download::open(&self.registry, &descriptor.digest).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
            crate::content::check_small("image configuration", &bytes, descriptor.size)?;
        }
        crate::content::check_size(&descriptor.digest, bytes.len() as u64, descriptor.size)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(Error::corrupt("image configuration", "its bytes have another digest"));
        }
        self.put(bytes.clone()).await?;
        Ok(bytes)
    }

    async fn stoppable(
        &self,
        layer: Layer,
        below: Option<watch::Receiver<bool>>,
        done: watch::Sender<bool>,
    ) -> Result<(), Error> {
        let result = tokio::select! {
            // Dropping it closes the channel to its blocking task, which then ends and removes its files.
            result = self.layer(&layer, below) => result,
            () = self.cancel.cancelled() => Err(cancelled()),
        };
        match &result {
            Ok(()) => drop(done.send_replace(true)),
            Err(_) => self.cancel.cancel(),
        }
        result
    }

    async fn layer(&self, layer: &Layer, below: Option<watch::Receiver<bool>>) -> Result<(), Error> {
        let name = layer.descriptor.digest.to_string();
        self.progress.iter().for_each(|p| p.started(&name, layer.descriptor.size));
        let _chain = self.lock(&format!("chain {}", layer.place.chain_id)).await;
        let is_placed = self.store.layers.contains(&layer.place.chain_id);
        if !self.store.content.contains_as(&layer.descriptor)? || !is_placed {
            let staged = self.stage(layer).await?;
            if !is_placed {
                if let Some(mut below) = below {
                    below.wait_for(|done| *done).await.map_err(|_| cancelled())?;
                }
                let (store, place) = (Arc::clone(&self.store), layer.place.clone());
                self.task(move || store.place(&staged, &place)).await?;
            }
        }
        self.progress.iter().for_each(|p| p.finished(&name));
        Ok(())
    }

    /// Waits until no other pull is at work on the same. One from the same registry is waited for as long as it takes; one
    /// from another registry may hang without reason for us to hang too, and doing the work twice does no harm.
    async fn lock(&self, what: &str) -> (OwnedMutexGuard<()>, Option<OwnedMutexGuard<()>>) {
        let own = self.store.locks.lock(&format!("{what} from {}", self.host)).await;
        let shared = tokio::time::timeout(PATIENCE, self.store.locks.lock(what)).await;
        (own, shared.ok())
    }

    /// Unpacks the layer from the content store, or from the network if it is not there.
    async fn stage(&self, layer: &Layer) -> Result<Staged, Error> {
        let _own = self.slots.acquire().await.map_err(|_| cancelled())?;
        let _slot = self.store.slots.take(&self.host).await.ok_or_else(cancelled)?;
        let _blob = self.lock(&format!("blob {}", layer.descriptor.digest)).await;
        if self.store.content.contains(&layer.descriptor.digest) {
            let (store, wanted) = (Arc::clone(&self.store), layer.wanted());
            let name = wanted.layer.digest.to_string();
            self.progress.iter().for_each(|p| p.advanced(&name, wanted.layer.size));
            return self.task(move || store.stage_from_blob(&wanted)).await;
        }
        self.fetch(layer).await
    }

    async fn fetch(&self, layer: &Layer) -> Result<Staged, Error> {
        let stream = Download::open(&self.registry, &layer.descriptor.digest).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let (store, wanted) = (Arc::clone(&self.store), layer.wanted());
        let reader = ChunkReader { receiver, chunk: Bytes::new(), is_at_end: false };
        let unpack = self.task(move || store.stage_from_stream(reader, &wanted));
        let ((), result) = tokio::join!(self.forward(stream, sender, layer), unpack);
        result
    }

    /// Hands the blob to the unpacker. An empty chunk says that it is complete.
    async fn forward(
        &self,
        mut stream: Download<'_>,
        sender: mpsc::Sender<Result<Bytes, Error>>,
        layer: &Layer,
    ) {
        let name = layer.descriptor.digest.to_string();
        while let Some(chunk) = stream.next().await {
            let is_err = chunk.is_err();
            // A closed channel means the unpacker gave up and will say why.
            if sender.send(chunk).await.is_err() || is_err {
                return;
            }
            self.progress.iter().for_each(|p| p.advanced(&name, stream.done()));
        }
        if sender.send(Ok(Bytes::new())).await.is_err() {
            tracing::debug!(layer = name, "the unpacker ended before its stream");
        }
    }

    async fn put(&self, bytes: Vec<u8>) -> Result<Digest, Error> {
        let store = Arc::clone(&self.store);
        self.task(move || store.content.put(&bytes)).await
    }

    async fn task<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let busy = Arc::clone(&self.busy);
        let (sender, receiver) = oneshot::channel();
        self.tasks.spawn_blocking(move || {
            // If nobody waits any more the result, maybe a staged layer, goes here and now, while the tracker still waits.
            drop(sender.send(work()));
            drop(busy);
        });
        receiver.await.map_err(|_| cancelled())?
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| cancelled())?
}

fn cancelled() -> Error {
    Error::Cancelled { operation: "the pull".into() }
}

/// The blocking end of the channel.
struct ChunkReader {
    receiver: mpsc::Receiver<Result<Bytes, Error>>,
    chunk: Bytes,
    is_at_end: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && !self.is_at_end && !buf.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.is_at_end = chunk.is_empty();
                    self.chunk = chunk;
                }
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other(cancelled())),
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk[..n]);
        self.chunk.advance(n);
        Ok(n)
    }
}
