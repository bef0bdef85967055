//! The engine: sandboxes, containers, exec, images and the pod network put together.
//!
//! In: operations named as in CRI, from `cri` or in process from the agent; reports of the supervisors. Out: pods, and
//! events about them. Long-lived tasks: one per supervisor connection (in: packets; out: answers and
//! [`watch`] calls), and one while a lost connection is looked into. Operations run in tasks of their own, so that a
//! caller who goes away leaves nothing half done.
//!
//! State on disk is in `<state>/{sandboxes,containers}/<id>/`; opening the engine is recovering from it
//! ([`recovery`]), whether the last engine ended well or not.

mod accept;
mod adoption;
pub mod cdi;
pub mod cgroups;
pub mod container;
mod damage;
pub mod error;
pub mod events;
pub mod exec;
pub mod handlers;
pub mod holds;
pub mod host;
mod identity;
pub mod ids;
pub(crate) mod image_settings;
pub mod image_volumes;
pub mod images;
pub mod launch;
pub mod layout;
pub mod lifecycle;
pub mod lookups;
mod metrics;
mod missed;
pub mod program;
pub mod records;
pub mod recovery;
pub mod resource_record;
pub mod rootfs;
pub mod sandbox;
pub mod sandbox_files;
pub mod seccomp;
pub mod serve;
pub mod state;
pub mod stats;
pub mod streaming;
pub mod supervisor_client;
pub mod teardown;
pub mod update;
mod users;
pub mod view;
pub mod watch;

use std::{
    collections::HashMap,
    fs::{self, File},
    future::Future,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::{Arc, OnceLock, PoisonError, RwLock, Weak},
};

use pintle_cni::Network;
use pintle_image::ImageStore;
use rustix::fs::FlockOperation;
use tokio::sync::{Notify, Semaphore, watch as watch_flag};

use self::{
    cgroups::Cgroups,
    error::{Error, Result},
    events::EventHub,
    image_settings::ImageSources,
    layout::{EngineConfig, Layout},
    state::{Container, Sandbox},
};
use crate::spec::HostFacts;

/// The container engine of one state directory.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) layout: Layout,
    pub(crate) images: ImageStore,
    pub(crate) image_sources: ImageSources,
    pub(crate) network: Arc<Network>,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) host: HostFacts,
    pub(crate) filters: seccomp::Filters,
    pub(crate) handlers: Arc<handlers::Handlers>,
    pub(crate) boot: String,
    pub(crate) shim: program::Program,
    pub(crate) events: EventHub,
    /// Told of all work, so that the memory it took is given back when there is none.
    pub(crate) work: Arc<Notify>,
    /// Counts what was pulled and imported, for those who wait for an image.
    pub(crate) images_arrived: watch_flag::Sender<u64>,
    /// Told of every pod address that is free again.
    pub(crate) addresses_freed: Arc<Notify>,
    /// Places for commands in containers.
    pub(crate) execs: Arc<Semaphore>,
    /// The same for those of streaming clients, which hold no memory.
    pub(crate) streamed_commands: Arc<Semaphore>,
    /// Set right after recovery.
    pub(crate) streaming: OnceLock<streaming::Streaming>,
    pub(crate) identities: identity::Identities,
    user_namespaces: users::Support,
    pub(crate) walks: stats::disk::Walks,
    sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    /// Itself, for the operations that outlive their callers.
    this: Weak<Self>,
    /// Set when serving ends, so that endless streams end too.
    pub(crate) serving_ends: watch_flag::Sender<bool>,
    /// Held: keeps a second engine off this state directory. Its time is when the last event was told.
    lock: File,
}

impl Engine {
    /// Opens the engine of a state directory: takes its lock, adopts what runs, removes what is left over.
    ///
    /// # Errors
    /// [`Error::Locked`] when another engine uses the directory; else when a part of the engine cannot be set up.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        let engine = blocking(move || Self::set_up(config)).await?;
        let engine = Arc::new_cyclic(|this| engine.with_this(this));
        engine.handlers.spawn_asking();
        let streaming = streaming::listen(&engine).await?;
        recovery::recover(&engine).await?;
        engine.streaming.get_or_init(|| streaming);
        Ok(engine)
    }

    fn set_up(config: EngineConfig) -> Result<Self> {
        let handlers = handlers::Handlers::new(&config.runtime_handlers)?;
        let layout = Layout::new(&config);
        make_state_dir(&layout.state)?;
        for dir in [&layout.sandboxes(), &layout.containers(), &layout.network()] {
            sandbox_files::make_dir(dir)?;
        }
        let lock = take_lock(&layout)?;
        let image_sources = ImageSources::read(&config.images)?;
        let images = ImageStore::open(&layout.root).map_err(Error::image("opening the image store"))?;
        let network = open_network(&config, &layout)?;
        let addresses_freed = Arc::new(Notify::new());
        let freed = Arc::clone(&addresses_freed);
        network.on_address_freed(move || freed.notify_one());
        let cgroups = Cgroups::discover()?;
        let host = HostFacts { open_files: config.open_files, ..host::facts(&cgroups)? };
        sandbox_files::write_pause(&layout.pause_rootfs())?;
        cgroups.ensure(&layout.supervisors_cgroup())?;
        let shim = program::Program::seal(&config.shim);
        Ok(Self {
            config,
            images,
            image_sources,
            network: Arc::new(network),
            cgroups: Arc::new(cgroups),
            host,
            filters: seccomp::Filters::default(),
            handlers: Arc::new(handlers),
            boot: host::boot_id()?,
            shim,
            events: EventHub::new(events::CAPACITY),
            work: Arc::default(),
            images_arrived: watch_flag::Sender::new(0),
            addresses_freed,
            execs: Arc::new(Semaphore::new(exec::MAX_EXECS)),
            streamed_commands: Arc::new(Semaphore::new(streaming::MAX_COMMANDS)),
            streaming: OnceLock::new(),
            identities: identity::Identities::default(),
            user_namespaces: users::Support::default(),
            walks: stats::disk::Walks::default(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            layout,
            this: Weak::new(),
            serving_ends: watch_flag::Sender::new(false),
            lock,
        })
    }

    fn with_this(mut self, this: &Weak<Self>) -> Self {
        self.this = Weak::clone(this);
        self
    }

    /// The engine as its operations need it, which may outlive their callers.
    ///
    /// # Errors
    /// When the engine is going away.
    pub(crate) fn arc(&self) -> Result<Arc<Self>> {
        self.this.upgrade().ok_or_else(|| Error::Internal("the engine is going away".to_owned()))
    }

    /// The image store, for callers in process.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Changes whenever an image was pulled or imported, whoever asked for it.
    #[must_use]
    pub fn images_arrived(&self) -> watch_flag::Receiver<u64> {
        self.images_arrived.subscribe()
    }

    /// Wakes one waiter for each pod address that is free again.
    #[must_use]
    pub fn addresses_freed(&self) -> Arc<Notify> {
        Arc::clone(&self.addresses_freed)
    }

    pub(crate) fn note_image_arrival(&self) {
        self.work.notify_one();
        self.images_arrived.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Where everything is and how it is called on the node.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn all_sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn sandbox_count(&self) -> usize {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn container_count(&self) -> usize {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn all_containers(&self) -> Vec<Arc<Container>> {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Every container of a sandbox, complete or not, the oldest first.
    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let map = self.containers.read().unwrap_or_else(PoisonError::into_inner);
        let mut of: Vec<_> = map.values().filter(|c| c.sandbox.id == sandbox).cloned().collect();
        drop(map);
        of.sort_by_key(|c| c.look(|record| record.created_at));
        of
    }

    /// The sandbox with this id, or with the only id that begins so.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let map = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        find(&map, id).ok_or_else(|| Error::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    /// The container with this id, or with the only id that begins so.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        let map = self.containers.read().unwrap_or_else(PoisonError::into_inner);
        find(&map, id)
            .filter(|container| container.look(|record| record.complete))
            .ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })
    }

    pub(crate) fn container_in_any_state(&self, id: &str) -> Option<Arc<Container>> {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn insert_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let mut map = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(sandbox.id.clone(), Arc::clone(sandbox));
    }

    pub(crate) fn forget_sandbox(&self, id: &str) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn insert_container(&self, container: &Arc<Container>) {
        let mut map = self.containers.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(container.id.clone(), Arc::clone(container));
    }

    /// Returns whether it was known.
    pub(crate) fn forget_container(&self, id: &str) -> bool {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some()
    }

    /// The cgroup of one supervisor.
    pub(crate) fn supervisor_cgroup(&self, sandbox: &str) -> String {
        layout::join_cgroup(&self.layout.supervisors_cgroup(), sandbox)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The readers hold the sockets; the supervisors and their pods live on.
        for sandbox in self.all_sandboxes() {
            if let Some(connection) = sandbox.set_connection(None) {
                connection.close();
            }
        }
    }
}

/// Runs an operation to its end, whatever becomes of the caller.
pub(crate) async fn detached<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    use tracing::Instrument as _;
    let task = tokio::spawn(operation.in_current_span());
    task.await
        .unwrap_or_else(|e| Err(Error::Internal(format!("an operation of the engine ended early: {e}"))))
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    let task = tokio::task::spawn_blocking(move || span.in_scope(work));
    task.await.unwrap_or_else(|e| Err(Error::Internal(format!("blocking work ended early: {e}"))))
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    let mut matching = map.iter().filter(|(key, _)| !id.is_empty() && key.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some((_, found)), None) => Some(Arc::clone(found)),
        _ => None,
    }
}

/// Others may reach the socket in it, if its mode lets them; they see nothing else.
fn make_state_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(Error::io("making", dir))
}

fn take_lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("opening", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(layout.state.clone())),
        Err(e) => Err(Error::io("locking", path)(e)),
    }
}

fn open_network(config: &EngineConfig, layout: &Layout) -> Result<Network> {
    let pod_cidr = match &config.pod_cidr {
        Some(text) => Some(text.parse().map_err(|e| Error::InvalidArgument(format!("pod CIDR: {e}")))?),
        None => None,
    };
    Network::open(pintle_cni::NetworkConfig {
        state_dir: layout.network(),
        bridge: layout.bridge.clone(),
        nft_table: layout.nft_table.clone(),
        pod_cidr,
        mtu: None,
    })
    .map_err(Error::network("opening the pod network"))
}
