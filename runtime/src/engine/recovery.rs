//! Opening the engine on a state directory that has been used: the boot path is the recovery path.
//!
//! In: records, supervisors' sockets, exit records, snapshots, leases. Out: sandboxes and containers in memory as they
//! are; half-made ones removed; pods whose supervisor is gone declared dead and killed; everything of another boot
//! dead; snapshots and leases nobody owns given back. Each file is read once and none is written.
//!
//! Each sandbox is looked after by a task of its own ([`adoption`](super::adoption)). Opening waits for them, but not long:
//! a sandbox whose supervisor is slow stays *awaited* and is looked after further in the background. One sandbox that
//! cannot be recovered is reported and does not keep the others from being.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use super::{
    Engine, adoption, blocking, damage,
    error::{Error, Result},
    events, ids,
    image_volumes::container_of,
    layout::{self, Layout},
    missed,
    records::{self, ContainerRecord, End, Record, SandboxPhase, SandboxRecord},
    state::{Container, Phase, Sandbox, end_of},
    watch::read_exit,
};

/// How long opening waits for supervisors to answer. Hundreds of them take a tenth of that; whoever takes longer is
/// awaited in the background, and nothing is decided about its pod until it has answered.
const PATIENCE: Duration = Duration::from_millis(500);

/// What was found of one record.
#[derive(Debug)]
pub(crate) enum Found<R> {
    /// It is as it was written.
    Whole(R),
    /// It is damaged; its first version is not.
    First(R),
    /// Nothing tells what it was.
    Nothing,
}

impl<R> Found<R> {
    fn record(self) -> Option<(R, bool)> {
        match self {
            Self::Whole(record) => Some((record, true)),
            Self::First(record) => Some((record, false)),
            Self::Nothing => None,
        }
    }
}

#[derive(Debug)]
struct FoundSandbox {
    id: String,
    record: Found<SandboxRecord>,
}

#[derive(Debug)]
struct FoundContainer {
    id: String,
    record: Found<ContainerRecord>,
    end: Option<End>,
}

/// Adopts what runs and removes what is left over.
///
/// # Errors
/// When the state directory cannot be read. Nothing has been touched then.
pub async fn recover(engine: &Arc<Engine>) -> Result<()> {
    let layout = engine.layout.clone();
    let (sandboxes, containers) =
        blocking(move || Ok((find_sandboxes(&layout)?, find_containers(&layout)?))).await?;
    if !sandboxes.is_empty() {
        engine.events.keep(events::KEPT_FOR);
    }
    let told = missed::told_until(&engine.lock);
    let mut ended = Vec::new();
    let mut work = tokio::task::JoinSet::new();
    for FoundSandbox { id, record } in sandboxes {
        match record.record() {
            Some((record, whole)) => take_sandbox(engine, record, whole),
            None => {
                let engine = Arc::clone(engine);
                work.spawn(async move { log(&id, damage::remove_unknown_sandbox(&engine, &id).await) });
            }
        }
    }
    for found in containers {
        let (id, end) = (found.id.clone(), found.end.clone());
        if take_container(engine, found) {
            ended.extend(end.map(|end| (end.finished_at, id)));
        } else {
            let engine = Arc::clone(engine);
            work.spawn(async move { log(&id, damage::remove_unknown_container(&engine, &id).await) });
        }
    }
    ended.retain(|(at, _)| *at >= told);
    missed::tell(engine, ended);
    for sandbox in engine.all_sandboxes() {
        let engine = Arc::clone(engine);
        work.spawn(async move { log(&sandbox.id, adoption::recover_sandbox(&engine, &sandbox).await) });
    }
    let all = async { while work.join_next().await.is_some() {} };
    let (in_time, orphans) = tokio::join!(tokio::time::timeout(PATIENCE, all), remove_orphans(engine));
    if in_time.is_err() {
        // They go on; nobody waits for them.
        work.detach_all();
        let awaited = engine.all_sandboxes().iter().filter(|sandbox| sandbox.is_awaited()).count();
        tracing::warn!(
            awaited,
            "not every supervisor has answered yet; their pods are left alone until they do"
        );
    }
    orphans
}

fn find_sandboxes(layout: &Layout) -> Result<Vec<FoundSandbox>> {
    let ids = ids_below(&layout.sandboxes())?.into_iter();
    ids.map(|id| {
        let record = find(layout, &layout.sandbox(&id))?;
        Ok(FoundSandbox { id, record })
    })
    .collect()
}

fn find_containers(layout: &Layout) -> Result<Vec<FoundContainer>> {
    let ids = ids_below(&layout.containers())?.into_iter();
    ids.map(|id| {
        let dir = layout.container(&id);
        let record = find::<ContainerRecord>(layout, &dir)?;
        let decided = match &record {
            Found::Whole(record) => record.end.clone(),
            Found::First(_) | Found::Nothing => None,
        };
        let end = decided.or_else(|| recorded_end(&dir));
        Ok(FoundContainer { id, record, end })
    })
    .collect()
}

fn ids_below(dir: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("listing", dir))? {
        let name = entry.map_err(Error::io("listing", dir))?.file_name();
        all.extend(name.to_str().filter(|name| ids::is_id(name)).map(str::to_owned));
    }
    Ok(all)
}

/// The record of a directory. One that is damaged is set aside, with a word about it, and its first version counts.
///
/// That a file cannot be opened for want of descriptors or memory says nothing about the record: opening the engine
/// fails then, and no pod is touched.
fn find<R: Record>(layout: &Layout, dir: &Path) -> Result<Found<R>> {
    match records::load::<R>(dir) {
        Ok(Some(record)) => return Ok(Found::Whole(record)),
        Ok(None) => {}
        Err(Error::Io { source, operation, path }) if is_want(&source) => {
            return Err(Error::Io { source, operation, path });
        }
        Err(error) => damage::set_aside(layout, &dir.join(R::FILE), &error),
    }
    match records::load_first::<R>(dir) {
        Ok(Some(record)) => Ok(Found::First(record)),
        Ok(None) => Ok(Found::Nothing),
        Err(Error::Io { source, operation, path }) if is_want(&source) => {
            Err(Error::Io { source, operation, path })
        }
        Err(error) => {
            damage::set_aside(layout, &dir.join(R::FIRST), &error);
            Ok(Found::Nothing)
        }
    }
}

fn is_want(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|e| Some(e.raw_os_error())).contains(&error.raw_os_error())
}

/// What the exit record says; nothing when it cannot be understood, so that the container is known all the same and what
/// its supervisor says, or its absence, decides.
fn recorded_end(dir: &Path) -> Option<End> {
    let read = read_exit(dir).unwrap_or_else(|error| {
        tracing::error!(error = error.chain(), "an exit record cannot be read");
        None
    });
    read.as_ref().map(end_of)
}

fn take_sandbox(engine: &Arc<Engine>, record: SandboxRecord, whole: bool) {
    let of_this_boot = record.boot == engine.boot;
    let dir = engine.layout.sandbox(&record.id);
    // A first version says Intent whatever became of the sandbox: its supervisor knows.
    let awaited = of_this_boot && (record.phase == SandboxPhase::Ready || !whole);
    let sandbox = Arc::new(Sandbox::new(record, dir));
    sandbox.set_awaited(awaited);
    engine.insert_sandbox(&sandbox);
}

/// Takes a container into memory. Whether there was a record and a sandbox for it.
fn take_container(engine: &Arc<Engine>, found: FoundContainer) -> bool {
    let FoundContainer { id, record, end } = found;
    let Some((mut record, whole)) = record.record() else { return false };
    let Ok(sandbox) = engine.sandbox(&record.sandbox) else { return false };
    // A first version says that it is incomplete; one that has ended was not.
    record.complete |= !whole && end.is_some();
    let phase = match end {
        Some(end) => Phase::Exited(end),
        None if sandbox.is_awaited() => Phase::Unknown,
        None => Phase::Created,
    };
    let dir = engine.layout.container(&id);
    engine.insert_container(&Arc::new(Container::new(record, sandbox, dir, phase)));
    true
}

/// Snapshots without a container and leases without a sandbox.
async fn remove_orphans(engine: &Arc<Engine>) -> Result<()> {
    let live: Vec<String> = {
        let held = |sandbox: &Arc<Sandbox>| {
            sandbox.is_awaited()
                || sandbox.look(|record| record.phase == SandboxPhase::Ready && record.boot == engine.boot)
        };
        engine.all_sandboxes().iter().filter(|s| held(s)).map(|s| s.id.clone()).collect()
    };
    let engine = Arc::clone(engine);
    blocking(move || {
        remove_orphaned_groups(&engine);
        let keys = engine.images.snapshots().map_err(Error::image("listing snapshots"))?;
        for key in keys.iter().filter(|key| engine.container_in_any_state(container_of(key)).is_none()) {
            let removed = engine.images.remove_snapshot(key).map_err(Error::image("removing a snapshot"));
            log(key, removed);
        }
        match engine.network.reconcile(&live) {
            Ok(found) => found.broken.iter().for_each(|id| declare_broken(&engine, id)),
            Err(error) => log("network", Err(Error::network("reconciling the pod network")(error))),
        }
        Ok(())
    })
    .await
}

/// Groups of supervisors, and those that the engine made for pods, whose sandbox has no record.
fn remove_orphaned_groups(engine: &Engine) {
    let known = |id: &str| engine.sandbox(id).is_ok();
    let supervisors = engine.layout.supervisors_cgroup();
    let lost = engine.cgroups.children(&supervisors).into_iter().filter(|name| !known(name));
    let mut groups: Vec<String> = lost.map(|name| layout::join_cgroup(&supervisors, &name)).collect();
    let pods = engine.cgroups.children(&engine.layout.default_pods_cgroup());
    let ids =
        pods.iter().filter_map(|name| name.strip_prefix("pod")).filter(|id| ids::is_id(id) && !known(id));
    groups.extend(ids.map(|id| engine.layout.own_pod_cgroup(id)));
    for group in groups {
        tracing::info!(cgroup = group, "removing a cgroup that belongs to no sandbox");
        log(&group, engine.cgroups.kill_and_remove(&group));
    }
}

/// A pod whose interface is gone cannot be mended: it is not ready, and whoever owns it rebuilds it.
fn declare_broken(engine: &Engine, id: &str) {
    tracing::warn!(sandbox = id, "the pod's network is broken; it is not ready any more");
    if let Ok(sandbox) = engine.sandbox(id) {
        sandbox.note_broken_network();
    }
}

/// What cannot be recovered is told here and nowhere else.
fn log(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(id = what, error = error.chain(), "recovery is incomplete");
    }
}
