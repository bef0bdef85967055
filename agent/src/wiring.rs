//! The agent put together: the only file that knows every part.
//!
//! In: settings. Out: a daemon that serves until it is told to stop. Long-lived tasks and what flows between them:
//!
//! ```text
//!  thread manifests ─Snapshot─► Merger ─Wanted─► PodWorkers ─Goal─► one worker per pod ─► StatusManager ─► AgentService
//!                                                                      ▲ RuntimeFacts
//!  engine ─events─► Pleg ──────────────────────────────────────────────┘            log rotation (own clock)
//! ```
//!
//! The order at start is what makes a restart harmless: what runs is found, manifests are read, and only then is anything
//! decided.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pintle_core::manifest::NodeInfo;
use pintle_core::model::{DesiredPod, Policy};
use pintle_core::pod_workers::FoundPod;
use pintle_core::restart_backoff::BackOff;
use pintle_core::termination::DEFAULT_GRACE;
use pintle_runtime::{Engine, EngineConfig};
use tokio::sync::watch;
use tracing::info;

use crate::apply::{Tools, chain};
use crate::cgroups::Cgroups;
use crate::config::{self, Settings};
use crate::pleg::Pleg;
use crate::pod_sources::{self, Merger};
use crate::pod_workers::{PodWorkers, Shared};
use crate::runtime::SharedRuntime;
use crate::server::AgentService;
use crate::status_manager::StatusManager;
use crate::volumes::PodDirs;
use crate::{checkpoint, daemon, node, pod_logs};

/// How long the lock of the state directory may be held by what is left of the last agent.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Runs the agent until SIGTERM or SIGINT. Pods are left running.
pub(crate) async fn run_agent(settings: Settings) -> anyhow::Result<()> {
    let stop = daemon::stop_signal()?;
    let engine = open_engine(&settings).await?;
    let facts = Arc::new(node::facts(&settings));
    let tools = Tools {
        runtime: Arc::clone(&engine) as SharedRuntime,
        dirs: PodDirs::new(&settings.root),
        cgroups: Cgroups::open(&settings.cgroup_root)?,
        node: Arc::clone(&facts),
    };
    tools.cgroups.ensure_classes()?;
    let pleg = Pleg::new(Arc::clone(&tools.runtime), tools.dirs.clone());
    let runtime_has =
        pleg.find_pods().await.map_err(|e| anyhow::anyhow!("list the runtime's pods: {}", e.message()))?;
    let (found, recorded) = found_on_node(runtime_has, &tools);
    let node_info = NodeInfo { name: settings.node_name.clone() };
    let complete = pod_sources::is_complete(node_info.clone());
    let snapshots = pod_sources::file::spawn(&settings.manifests, settings.file_check, complete)?;
    let mut merger = Merger::new(node_info, recorded);
    let first = merger.merge(&snapshots.borrow());
    let (wanted, wanted_seen) = watch::channel(first);
    let policy = Arc::new(policy(&settings, facts.ips.clone()));
    let statuses = StatusManager::default();
    let shared = Shared {
        tools,
        pleg,
        policy: Arc::clone(&policy),
        statuses: statuses.clone(),
        images_arrived: engine.images_arrived(),
        addresses_freed: engine.addresses_freed(),
    };
    let service = AgentService { statuses, policy, node: settings.node_name.clone() };
    let workers = PodWorkers::new(shared.clone(), node::capacity(&facts, &settings), found);

    let listener = pintle_runtime::bind(&settings.socket)?;
    tokio::spawn(shared.pleg.clone().run(settings.audit_relist));
    tokio::spawn(merger.run(snapshots, wanted));
    tokio::spawn(workers.run(wanted_seen));
    tokio::spawn(pod_logs::run(Arc::clone(&shared.tools.runtime), settings.logs));
    let routes = engine.routes().add_service(pintle_cri_api::ext_agent_server(Arc::new(service)));
    info!("pintle agent: serving on unix://{} node={}", settings.socket.display(), settings.node_name);
    daemon::notify("READY=1");
    engine.serve_routes(routes, listener, stop).await?;
    daemon::unlink(&settings.socket);
    Ok(())
}

/// Runs the engine alone until SIGTERM or SIGINT.
pub(crate) async fn run_runtime(settings: Settings) -> anyhow::Result<()> {
    let stop = daemon::stop_signal()?;
    let engine = open_engine(&settings).await?;
    let listener = pintle_runtime::bind(&settings.socket)?;
    info!("pintle runtime: serving on unix://{}", settings.socket.display());
    daemon::notify("READY=1");
    engine.serve(listener, stop).await?;
    daemon::unlink(&settings.socket);
    Ok(())
}

async fn open_engine(settings: &Settings) -> anyhow::Result<Arc<Engine>> {
    let config = EngineConfig {
        pod_cidr: settings.pod_cidr.clone(),
        registry_config: settings.registry_config.clone(),
        images: settings.images.clone(),
        streaming: settings.streaming,
        shim: config::find_shim(settings.shim.as_deref())?,
        cgroup_root: Some(settings.cgroup_root.clone()),
        open_files: Some(daemon::raise_open_files()),
        runtime_handlers: settings.runtime_handlers.clone(),
        ..EngineConfig::new(&settings.root, &settings.state)
    };
    let (root, state) = (settings.root.display(), settings.state.display());
    open_when_free(config).await.with_context(|| format!("open the engine of root {root} and state {state}"))
}

/// A child that an agent was just making when it was killed holds its lock for a moment longer.
async fn open_when_free(config: EngineConfig) -> Result<Arc<Engine>, pintle_runtime::Error> {
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    loop {
        match Engine::open(config.clone()).await {
            Err(pintle_runtime::Error::Locked(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// What earlier agents left: what the runtime has, and what only directories or cgroups tell of.
fn found_on_node(mut found: Vec<FoundPod>, tools: &Tools) -> (Vec<FoundPod>, Vec<DesiredPod>) {
    let left_over = tools.dirs.left_over().into_iter().chain(tools.cgroups.pods());
    for uid in left_over {
        if found.iter().any(|pod| pod.uid == uid) {
            continue;
        }
        let recorded = checkpoint::load_pod(&tools.dirs, &uid);
        let (namespace, name) = recorded.as_ref().map_or_else(
            // No name at all, so that nobody has to wait for it but who has its uid.
            || (String::new(), uid.to_string()),
            |pod| (pod.namespace().to_owned(), pod.name().to_owned()),
        );
        found.push(FoundPod { uid, namespace, name, grace: DEFAULT_GRACE });
    }
    let recorded = found.iter().filter_map(|pod| checkpoint::load_pod(&tools.dirs, &pod.uid)).collect();
    (found, recorded)
}

fn policy(settings: &Settings, host_ips: Vec<String>) -> Policy {
    let back_off = |numbers: config::BackOff| BackOff { initial: numbers.initial, max: numbers.max };
    Policy {
        restart: back_off(settings.restart),
        restart_reset: settings.restart.reset,
        pull: back_off(settings.pull),
        host_ips,
        ..Policy::default()
    }
}

/// Removes what an instance leaves on the host while it has no pods: bridge, packet filter table, cgroups.
pub(crate) fn clean_up(root: &Path, state: &Path, cgroup_root: &str) -> anyhow::Result<()> {
    let engine_config = EngineConfig::new(root, state);
    let layout = pintle_runtime::Layout::new(&engine_config);
    anyhow::ensure!(state.is_dir(), "{} is not a directory: nothing was ever run there", state.display());
    let lock =
        std::fs::File::create(layout.lock()).with_context(|| format!("open {}", layout.lock().display()))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow::anyhow!("an agent or runtime uses {}: stop it first", state.display()))?;
    let has_pods = std::fs::read_dir(layout.sandboxes()).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        !has_pods,
        "pods are left in {}: start the agent and remove their manifests first",
        state.display()
    );
    let network = pintle_cni::Network::open(pintle_cni::NetworkConfig {
        state_dir: layout.network(),
        bridge: layout.bridge.clone(),
        nft_table: layout.nft_table.clone(),
        pod_cidr: None,
        mtu: None,
    });
    let mut failures: Vec<String> = Vec::new();
    match network.as_ref().map(pintle_cni::Network::remove_all) {
        Ok(removed) => failures.extend(removed.err().map(|e| chain(&e))),
        Err(e) => failures.push(chain(e)),
    }
    failures
        .extend(Cgroups::open(cgroup_root).and_then(|groups| groups.remove_all()).err().map(|e| chain(&e)));
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
