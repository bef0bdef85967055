//! Opening the engine on a state directory that has been used: the boot path is the recovery path.
//!
//! In: records, supervisors' sockets, exit records, snapshots, leases. Out: sandboxes and containers in memory as they
//! are; half-made ones removed; pods whose supervisor is gone declared dead and killed; everything of another boot
//! dead; snapshots and leases nobody owns given back. One sandbox that cannot be recovered is reported and does not keep
//! the others from being.

use std::{fs, path::Path, sync::Arc};

use super::{
    Engine, blocking, cgroups,
    error::{Error, Result},
    ids, layout,
    records::{self, ContainerRecord, End, Record, SandboxPhase, SandboxRecord},
    sandbox_files,
    state::{Container, Phase, Sandbox, end_of},
    watch::{Reconnected, read_exit},
};

/// How often a supervisor that is there is asked before it is given up; every time takes up to ten seconds.
const ADOPTION_TRIES: u32 = 3;

/// Adopts what runs and removes what is left over.
///
/// # Errors
/// When the state directory cannot be read.
pub async fn recover(engine: &Arc<Engine>) -> Result<()> {
    let (sandboxes, containers) = blocking({
        let layout = engine.layout.clone();
        move || {
            Ok((
                load_all::<SandboxRecord>(&layout.sandboxes())?,
                load_all::<ContainerRecord>(&layout.containers())?,
            ))
        }
    })
    .await?;
    for (id, record) in sandboxes {
        match record {
            Some(record) => {
                let dir = engine.layout.sandbox(&id);
                engine.insert_sandbox(&Arc::new(Sandbox::new(record, dir)));
            }
            None => log(&id, remove_unknown_sandbox(engine, &id).await),
        }
    }
    for (id, record) in containers {
        log(&id, adopt_record(engine, &id, record).await);
    }
    let adopted = engine.all_sandboxes().into_iter().map(|sandbox| {
        let engine = Arc::clone(engine);
        async move { log(&sandbox.id, recover_sandbox(&engine, &sandbox).await) }
    });
    futures_util::future::join_all(adopted).await;
    remove_orphans(engine).await
}

/// The records below a directory; `None` for one that is missing or cannot be understood.
fn load_all<R: Record>(dir: &Path) -> Result<Vec<(String, Option<R>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("listing", dir))? {
        let entry = entry.map_err(Error::io("listing", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ids::is_id(&name) {
            continue;
        }
        let record = records::load::<R>(&entry.path()).unwrap_or_else(|error| {
            tracing::error!(id = %name, error = error.chain(), "a record cannot be read; what it was for is removed");
            None
        });
        all.push((name, record));
    }
    Ok(all)
}

/// Takes a container's record into memory, if its sandbox is there and it was made completely.
async fn adopt_record(engine: &Arc<Engine>, id: &str, record: Option<ContainerRecord>) -> Result<()> {
    let dir = engine.layout.container(id);
    let sandbox = record.as_ref().and_then(|record| engine.sandbox(&record.sandbox).ok());
    let (Some(record), Some(sandbox)) = (record, sandbox) else {
        return remove_unknown_container(engine, id).await;
    };
    let end = match &record.end {
        Some(end) => Some(end.clone()),
        None => {
            blocking({
                let dir = dir.clone();
                move || Ok(recorded_end(&dir))
            })
            .await?
        }
    };
    let phase = end.map_or(Phase::Created, Phase::Exited);
    engine.insert_container(&Arc::new(Container::new(record, sandbox, dir, phase)));
    Ok(())
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

async fn recover_sandbox(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let _op = sandbox.op.lock().await;
    let record = sandbox.record();
    let of_this_boot = record.boot == engine.boot;
    if record.phase == SandboxPhase::Intent {
        tracing::info!(sandbox = %sandbox.id, "removing a sandbox that was never finished");
        reconnect_to_shut_down(engine, sandbox).await;
        return engine.take_back(sandbox).await;
    }
    if record.phase == SandboxPhase::Ready && of_this_boot && !adopt(engine, sandbox).await {
        tracing::warn!(sandbox = %sandbox.id, "no supervisor; killing the pod");
        engine.kill_leftovers(sandbox).await?;
    }
    if sandbox.connection().is_none() {
        engine
            .end_containers(
                sandbox,
                if of_this_boot { "its supervisor died" } else { "the node was restarted" },
            )
            .await;
    }
    for container in engine.containers_of(&sandbox.id) {
        settle_container(engine, &container).await;
    }
    Ok(())
}

/// Connects to a sandbox's supervisor. One that lives but does not answer is given several chances, for the pod's sake.
async fn adopt(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) -> bool {
    for _ in 0..ADOPTION_TRIES {
        match engine.reconnect(sandbox).await {
            Reconnected::Yes => return true,
            Reconnected::Dead => return false,
            Reconnected::NotNow(error) => {
                tracing::warn!(sandbox = %sandbox.id, %error, "a supervisor does not answer");
            }
        }
    }
    false
}

/// A supervisor of a half-made sandbox is told to end, where it listens already.
async fn reconnect_to_shut_down(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) {
    if let Err(error) = engine.connect(sandbox).await {
        tracing::debug!(sandbox = %sandbox.id, error = error.chain(), "its supervisor does not listen");
    }
}

/// Removes a container that was never finished; ends one that its supervisor does not know.
async fn settle_container(engine: &Arc<Engine>, container: &Arc<Container>) {
    if !container.record().complete {
        log(&container.id, engine.remove_container_now(container).await);
        return;
    }
    let Some(connection) = container.sandbox.connection() else { return };
    if matches!(container.phase(), Phase::Exited(_)) {
        return;
    }
    let known = connection.list().await;
    if known.is_ok_and(|list| list.iter().all(|state| state.container != container.id)) {
        let end = engine.find_end(container, "its supervisor does not know it").await;
        engine.note_end(container, end);
    }
}

/// Snapshots without a container and leases without a sandbox.
async fn remove_orphans(engine: &Arc<Engine>) -> Result<()> {
    let live: Vec<String> = {
        let held = |sandbox: &Arc<Sandbox>| {
            let record = sandbox.record();
            record.phase == SandboxPhase::Ready && record.boot == engine.boot
        };
        engine.all_sandboxes().iter().filter(|s| held(s)).map(|s| s.id.clone()).collect()
    };
    let engine = Arc::clone(engine);
    blocking(move || {
        remove_orphaned_groups(&engine);
        let keys = engine.images.snapshots().map_err(Error::image("listing snapshots"))?;
        for key in keys.iter().filter(|key| engine.container_in_any_state(key).is_none()) {
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
        sandbox.set_infra_alive(false);
    }
}

/// A directory whose record says nothing: what can be found by its id is removed.
async fn remove_unknown_sandbox(engine: &Arc<Engine>, id: &str) -> Result<()> {
    let dir = engine.layout.sandbox(id);
    let mut groups = vec![engine.supervisor_cgroup(id), engine.layout.own_pod_cgroup(id)];
    let cgroups = Arc::clone(&engine.cgroups);
    let id = id.to_owned();
    blocking(move || {
        // The supervisor goes first: it would report the others' ends to nobody.
        cgroups.kill_and_remove(&groups[0])?;
        groups.extend(cgroups::occupied_groups_of(&id));
        groups.iter().try_for_each(|group| cgroups.kill_and_remove(group))?;
        sandbox_files::unmount_shm(&dir)?;
        sandbox_files::remove_dir(&dir)
    })
    .await
}

async fn remove_unknown_container(engine: &Arc<Engine>, id: &str) -> Result<()> {
    let dir = engine.layout.container(id);
    let images = engine.images.clone();
    let cgroups = Arc::clone(&engine.cgroups);
    let id = id.to_owned();
    blocking(move || {
        cgroups::occupied_groups_of(&id).iter().try_for_each(|group| cgroups.kill_and_remove(group))?;
        images.remove_snapshot(&id).map_err(Error::image("removing a snapshot"))?;
        sandbox_files::remove_dir(&dir)
    })
    .await
}

/// What cannot be recovered is told here and nowhere else.
fn log(what: &str, result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(id = what, error = error.chain(), "recovery is incomplete");
    }
}
