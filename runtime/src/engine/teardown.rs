//! Stops and removes sandboxes: CRI's `StopPodSandbox` and `RemovePodSandbox`, and the undoing of a failed start.
//!
//! In: a sandbox in any state, also one without a supervisor. Out: no process, cgroup, network, mount or file of it.
//! Every step may be done twice; a failing step does not keep the next ones from being tried, and all failures are told.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use pintle_shim_protocol::{KillScope, Request};

use super::{
    Engine, blocking, detached,
    error::{Error, Failures, Result},
    layout,
    records::{self, NamespaceMode, SandboxPhase, SandboxRecord},
    sandbox_files,
    state::{Phase, Sandbox},
    view,
};
use crate::spec::signal::SIGKILL;

/// How long a supervisor may take to kill everything and end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait before taking a sandbox back is tried again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// How long killed containers may take until their end is reported.
const KILLED_LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    /// Kills everything in a sandbox and gives back its network. Done already, or no such sandbox: nothing happens.
    ///
    /// # Errors
    /// With everything that could not be done; it may be called again.
    pub async fn stop_pod_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let engine = Arc::clone(self);
        detached(async move {
            let _op = sandbox.op.lock().await;
            engine.stop_locked(&sandbox).await
        })
        .await
    }

    /// Removes a sandbox and everything in it, stopping it first. No such sandbox: nothing happens.
    ///
    /// # Errors
    /// With everything that could not be done; it may be called again.
    pub async fn remove_pod_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let engine = Arc::clone(self);
        detached(async move {
            let _op = sandbox.op.lock().await;
            if engine.sandbox(&sandbox.id).is_err() {
                // Another caller was quicker.
                return Ok(());
            }
            engine.stop_locked(&sandbox).await?;
            let mut failures = Failures::default();
            for container in engine.containers_of(&sandbox.id) {
                failures.note(engine.remove_container_now(&container).await);
            }
            failures.into_result()?;
            let record = sandbox.record();
            engine.remove_sandbox_files(&sandbox).await?;
            engine.forget_sandbox(&sandbox.id);
            engine.publish_removed(&record.id, Some(&sandbox));
            Ok(())
        })
        .await
    }

    async fn stop_locked(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        if sandbox.record().phase == SandboxPhase::Stopped {
            return Ok(());
        }
        self.take_down(sandbox).await?;
        let record = sandbox.update(|record| record.phase = SandboxPhase::Stopped);
        let dir = sandbox.dir.clone();
        blocking(move || records::save(&dir, &record)).await
    }

    /// Ends every process of a sandbox, its supervisor too, and gives back network and mounts.
    pub(crate) async fn take_down(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let mut failures = Failures::default();
        // Whoever waits for its supervisor to answer need not any more.
        let was_awaited = sandbox.set_awaited(false);
        if let Some(connection) = sandbox.connection() {
            self.kill_containers(sandbox).await;
            // From here on the connection's end is no news.
            sandbox.set_connection(None);
            let answer = connection.request(Request::Shutdown, SHUTDOWN_LIMIT).await;
            if let Err(error) = answer.map_err(Error::supervisor("shutting the supervisor down")) {
                // Not the end of it: what is left is killed by its cgroup below.
                tracing::warn!(sandbox = %sandbox.id, error = error.chain(), "a supervisor does not end");
            }
            connection.close();
        }
        failures.note(self.kill_leftovers(sandbox).await);
        if (sandbox.set_infra_alive(false) | was_awaited) && sandbox.record().phase != SandboxPhase::Intent {
            self.publish_sandbox(sandbox, view::STOPPED);
        }
        self.end_containers(sandbox, "it was stopped with its pod").await;
        let record = sandbox.record();
        let network = Arc::clone(&self.network);
        let dir = sandbox.dir.clone();
        failures.note(
            blocking(move || {
                let mut failures = Failures::default();
                if record.config.network != NamespaceMode::Node {
                    let detached = network.detach(&record.id);
                    failures.note(detached.map_err(Error::network("detaching the pod network")));
                }
                failures.note(sandbox_files::unmount_shm(&dir));
                failures.into_result()
            })
            .await,
        );
        failures.into_result()
    }

    /// Takes back a sandbox that was never finished. What cannot be taken away now keeps its record, which says that the
    /// sandbox was never finished, and is tried again until it can: by this engine, or by the next one when it opens.
    pub(crate) async fn take_back(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let taken = self.try_take_back(sandbox).await;
        if taken.is_err() {
            let (engine, sandbox) = (Arc::downgrade(self), Arc::clone(sandbox));
            tokio::spawn(async move { keep_taking_back(&engine, &sandbox).await });
        }
        taken
    }

    async fn try_take_back(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        self.take_down(sandbox).await?;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container_now(&container).await?;
        }
        self.remove_sandbox_files(sandbox).await?;
        self.forget_sandbox(&sandbox.id);
        Ok(())
    }

    /// Kills the containers through the supervisor, so that each has its exit record before the supervisor ends.
    async fn kill_containers(&self, sandbox: &Sandbox) {
        let Some(connection) = sandbox.connection() else { return };
        let kills = self.containers_of(&sandbox.id).into_iter().map(|container| {
            let connection = connection.clone();
            async move {
                let mut watch = container.watch();
                if matches!(*watch.borrow(), Phase::Exited(_)) {
                    return;
                }
                let id = container.id.clone();
                let kill = Request::Kill { container: id, signal: SIGKILL, scope: KillScope::All };
                if let Err(error) = connection.request(kill, KILLED_LIMIT).await {
                    tracing::warn!(container = %container.id, %error, "a container cannot be killed");
                    return;
                }
                let gone = watch.wait_for(|phase| matches!(phase, Phase::Exited(_)));
                if tokio::time::timeout(KILLED_LIMIT, gone).await.is_err() {
                    tracing::warn!(container = %container.id, "a killed container does not end");
                }
            }
        });
        futures_util::future::join_all(kills).await;
    }

    /// Kills what runs in the sandbox's cgroups, and the supervisor's, and removes them.
    pub(crate) async fn kill_leftovers(&self, sandbox: &Sandbox) -> Result<()> {
        let record = sandbox.record();
        let mut groups: Vec<String> =
            self.containers_of(&record.id).iter().map(|container| container.record().cgroup).collect();
        groups.push(layout::join_cgroup(&record.cgroup_parent, &record.id));
        groups.push(self.supervisor_cgroup(&record.id));
        let cgroups = Arc::clone(&self.cgroups);
        blocking(move || {
            let mut failures = Failures::default();
            for group in &groups {
                failures.note(cgroups.kill_and_remove(group));
            }
            failures.into_result()
        })
        .await
    }

    /// Removes what is left of a stopped sandbox on disk and in the cgroup tree.
    pub(crate) async fn remove_sandbox_files(&self, sandbox: &Sandbox) -> Result<()> {
        let SandboxRecord { cgroup_parent, owns_parent, .. } = sandbox.record();
        let cgroups = Arc::clone(&self.cgroups);
        let dir = sandbox.dir.clone();
        let is_of_sandbox = cgroup_parent == self.layout.own_pod_cgroup(&sandbox.id);
        blocking(move || {
            match (is_of_sandbox, owns_parent) {
                // It is named by the sandbox: nobody else's is below it.
                (true, _) => cgroups.kill_and_remove(&cgroup_parent)?,
                (false, true) => cgroups.remove_if_empty(&cgroup_parent),
                (false, false) => {}
            }
            sandbox_files::unmount_shm(&dir)?;
            sandbox_files::remove_dir(&dir)
        })
        .await
    }

    /// Takes everything off the node that outlives the pods: bridge, nftables table, pause root, cgroups.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] while there are sandboxes; else with everything that could not be removed.
    pub async fn remove_all_resources(self: &Arc<Self>) -> Result<()> {
        if !self.all_sandboxes().is_empty() {
            return Err(Error::FailedPrecondition("there are sandboxes; remove them first".to_owned()));
        }
        let engine = Arc::clone(self);
        blocking(move || {
            let mut failures = Failures::default();
            failures.note(engine.network.remove_all().map_err(Error::network("removing the pod network")));
            let pause = engine.layout.root.join("pause");
            failures.note(sandbox_files::remove_dir(&pause));
            let pods = engine.layout.default_pods_cgroup();
            let mut groups = vec![engine.layout.supervisors_cgroup(), pods.clone()];
            groups.extend(pods.rsplit_once('/').map(|(parent, _)| parent.to_owned()));
            if engine.layout.cgroup_root != "/" {
                groups.push(engine.layout.cgroup_root.clone());
            }
            groups.iter().for_each(|group| engine.cgroups.remove_if_empty(group));
            failures.into_result()
        })
        .await
    }
}

/// Tries again and again, ever more slowly, as long as there is an engine and the sandbox is its own.
async fn keep_taking_back(engine: &Weak<Engine>, sandbox: &Arc<Sandbox>) {
    let mut pause = RETRY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
        let Some(engine) = engine.upgrade() else { return };
        let _op = sandbox.op.lock().await;
        if engine.sandbox(&sandbox.id).is_err() {
            return;
        }
        match engine.try_take_back(sandbox).await {
            Ok(()) => {
                tracing::info!(sandbox = %sandbox.id, "what was left of a sandbox is gone now");
                return;
            }
            Err(error) => {
                tracing::warn!(sandbox = %sandbox.id, error = error.chain(), "a sandbox cannot be taken back; trying again");
            }
        }
    }
}
