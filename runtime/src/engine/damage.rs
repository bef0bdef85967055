//! Records that are damaged: what becomes of them, and of what they were about.
//!
//! In: a directory whose record does not add up. Out: the damaged file set aside for people to look at; the record put
//! together again from its first version and from what the supervisor tells; or, where both versions are lost, everything
//! found by the id killed and removed, and said so. A pod whose supervisor answers is not killed for one damaged file.

use std::{fs, path::Path, sync::Arc};

use oci_spec::runtime::Spec;
use pintle_cni::{Attach, Netns};
use pintle_shim_protocol::ContainerState;

use super::{
    Engine, blocking, cgroups,
    error::{Error, Result},
    layout::Layout,
    records::{self, ContainerRecord, NamespaceMode, Record, SandboxPhase, UserRecord},
    sandbox_files::{self, OCI_CONFIG},
    state::{Container, Sandbox},
};

/// How many damaged files are kept to be looked at.
const MOST_SET_ASIDE: usize = 64;

/// Keeps a damaged file under `<state>/damaged`, and says so.
pub(crate) fn set_aside(layout: &Layout, path: &Path, error: &Error) {
    let directory = layout.damaged();
    let id = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let to = directory.join(format!("{id}.{file}"));
    let moved = sandbox_files::make_dir(&directory).and_then(|()| {
        let room =
            fs::read_dir(&directory).map_err(Error::io("listing", &directory))?.count() < MOST_SET_ASIDE;
        let done = if room { fs::rename(path, &to) } else { fs::remove_file(path) };
        done.map_err(Error::io("setting aside", path))
    });
    match moved {
        Ok(()) => {
            tracing::error!(error = error.chain(), kept = %to.display(), "a record is damaged and was set aside")
        }
        Err(failed) => {
            tracing::error!(
                error = error.chain(),
                failed = failed.chain(),
                "a record is damaged and stays where it is"
            )
        }
    }
}

/// Puts a sandbox's record together again from its first version. Whether the sandbox had been finished.
pub(crate) async fn complete_sandbox(
    engine: &Arc<Engine>,
    sandbox: &Arc<Sandbox>,
    known: &[ContainerState],
) -> Result<bool> {
    let infra = known.iter().find(|state| state.container == sandbox.id);
    let Some(pid) = infra.filter(|infra| infra.started_at.is_some()).and_then(|infra| infra.pid) else {
        return Ok(false);
    };
    let record = sandbox.record();
    let network = Arc::clone(&engine.network);
    let dir = sandbox.dir.clone();
    let supervisor_pid = sandbox.connection().map(|connection| connection.pid);
    let record = blocking(move || {
        let mut record = record;
        if record.config.network != NamespaceMode::Node {
            // It has its address already: asking again tells which.
            let path = format!("/proc/{pid}/ns/net");
            let netns = Netns::Path(Path::new(&path));
            let attach =
                Attach { sandbox: &record.id, pod_uid: &record.config.uid, netns, ports: &record.host_ports };
            let attached = network.attach(&attach).map_err(Error::network("looking up the pod's address"))?;
            record.ips = vec![attached.ip.to_string()];
        }
        record.phase = SandboxPhase::Ready;
        record.infra_pid = Some(pid);
        record.supervisor_pid = supervisor_pid;
        records::save(&dir, &record)?;
        Ok(record)
    })
    .await?;
    sandbox.update(|old| *old = record);
    tracing::warn!(sandbox = %sandbox.id, "a damaged record was put together again");
    Ok(true)
}

/// The same for the containers of a sandbox that its supervisor knows.
pub(crate) async fn complete_containers(
    engine: &Arc<Engine>,
    sandbox: &Sandbox,
    known: &[ContainerState],
) -> Result<()> {
    for container in engine.containers_of(&sandbox.id) {
        // A damaged record is not where it was any more.
        let damaged = !container.dir.join(<ContainerRecord as Record>::FILE).exists();
        let state = known.iter().find(|state| state.container == container.id);
        if damaged && (state.is_some() || container.look(|record| record.complete)) {
            complete_container(&container, state.and_then(|state| state.pid)).await?;
        }
    }
    Ok(())
}

async fn complete_container(container: &Arc<Container>, pid: Option<i32>) -> Result<()> {
    let dir = container.dir.clone();
    let user = blocking(move || Ok(user_of(&dir))).await?;
    let record = container.update(|record| {
        record.complete = true;
        record.pid = pid;
        record.user = user;
    });
    let dir = container.dir.clone();
    blocking(move || records::save(&dir, &record)).await?;
    tracing::warn!(container = %container.id, "a damaged record was put together again");
    Ok(())
}

/// The identity in a bundle's configuration.
fn user_of(dir: &Path) -> UserRecord {
    let text = records::read_bounded(&dir.join(OCI_CONFIG)).ok().flatten().unwrap_or_default();
    let spec = serde_json::from_slice::<Spec>(&text).ok();
    let user = spec.and_then(|spec| spec.process().as_ref().map(|process| process.user().clone()));
    user.map_or_else(UserRecord::default, |user| UserRecord {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
    })
}

/// A directory that nothing tells about: what can be found by its id is killed and removed.
pub(crate) async fn remove_unknown_sandbox(engine: &Arc<Engine>, id: &str) -> Result<()> {
    tracing::error!(
        sandbox = id,
        "nothing tells what this sandbox was; what is left of it is killed and removed"
    );
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

/// The same for a container.
pub(crate) async fn remove_unknown_container(engine: &Arc<Engine>, id: &str) -> Result<()> {
    tracing::warn!(container = id, "a container without record or sandbox; what is left of it is removed");
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
