//! Makes one sandbox that a new engine found its own again.
//!
//! In: a sandbox from its record. Out: it is known what runs in it; or it is dead and nothing of it runs; or it stays
//! *awaited*, and a task goes on asking its supervisor. While a supervisor lives, its pod is neither killed nor declared
//! dead, whatever else goes wrong, be it for a want of descriptors. Only a caller can end such a pod, by stopping or
//! removing the sandbox: that goes by its cgroups.
//!
//! An awaited sandbox is listed as it was last known (READY, its containers RUNNING), because whoever is told otherwise
//! kills it and starts another one beside it; nothing can be made or started in it. `verbose` tells that it is awaited.

use std::sync::Arc;

use pintle_shim_protocol::ContainerState;

use super::{
    Engine, damage,
    error::Result,
    records::SandboxPhase,
    state::{Phase, Sandbox},
    view,
    watch::{self, Reconnected},
};

/// Brings a sandbox that was found on disk to what is true of it now.
pub(crate) async fn recover_sandbox(engine: &Arc<Engine>, sandbox: &Arc<Sandbox>) -> Result<()> {
    if sandbox.is_awaited() {
        match engine.adopt(sandbox).await? {
            Reconnected::Yes => {}
            Reconnected::Dead => engine.supervisor_died(sandbox).await?,
            Reconnected::NotNow(error) => {
                tracing::warn!(
                    sandbox = %sandbox.id, error,
                    "a supervisor does not answer; its pod is left alone until it does"
                );
                watch::spawn_look_into(Arc::downgrade(engine), Arc::clone(sandbox));
            }
        }
        return Ok(());
    }
    let _op = sandbox.op.lock().await;
    let (phase, boot) = sandbox.look(|record| (record.phase, record.boot.clone()));
    if phase == SandboxPhase::Intent {
        return engine.remove_unfinished(sandbox).await;
    }
    let why = if boot == engine.boot { "its supervisor died" } else { "the node was restarted" };
    engine.end_containers(sandbox, why).await;
    engine.remove_incomplete(sandbox).await
}

impl Engine {
    /// Connects to the supervisor of an awaited sandbox and takes over what it tells.
    ///
    /// # Errors
    /// When what it tells cannot be written down or half-made containers cannot be removed; it is adopted all the same.
    pub(crate) async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<Reconnected> {
        let known = match self.ask(sandbox).await {
            Ok(known) => known,
            Err(otherwise) => return Ok(otherwise),
        };
        let _op = sandbox.op.lock().await;
        if !sandbox.is_awaited() {
            // Somebody stopped it meanwhile.
            return Ok(Reconnected::Yes);
        }
        if sandbox.look(|record| record.phase) == SandboxPhase::Intent
            && !damage::complete_sandbox(self, sandbox, &known).await?
        {
            sandbox.set_awaited(false);
            self.remove_unfinished(sandbox).await?;
            return Ok(Reconnected::Yes);
        }
        let mended = damage::complete_containers(self, sandbox, &known).await;
        self.apply_list(sandbox, &known);
        self.end_forgotten(sandbox, &known).await;
        let removed = self.remove_incomplete(sandbox).await;
        sandbox.set_awaited(false);
        if sandbox.is_ready() {
            self.publish_found(sandbox);
        } else {
            self.publish_sandbox(sandbox, view::STOPPED);
        }
        mended.and(removed).map(|()| Reconnected::Yes)
    }

    /// A sandbox that a crash kept from being finished.
    pub(crate) async fn remove_unfinished(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        tracing::info!(sandbox = %sandbox.id, "removing a sandbox that was never finished");
        if sandbox.connection().is_none()
            && let Err(error) = self.connect(sandbox).await
        {
            tracing::debug!(sandbox = %sandbox.id, error = error.chain(), "its supervisor does not listen");
        }
        self.take_back(sandbox).await
    }

    /// Ends the containers that their supervisor does not know.
    async fn end_forgotten(self: &Arc<Self>, sandbox: &Sandbox, known: &[ContainerState]) {
        for container in self.containers_of(&sandbox.id) {
            let forgotten = known.iter().all(|state| state.container != container.id);
            let is_over = matches!(container.phase(), Phase::Exited(_));
            if forgotten && !is_over && container.look(|record| record.complete) {
                let end = self.find_end(&container, "its supervisor does not know it").await;
                self.note_end(&container, end);
            }
        }
    }

    /// Removes the containers that were never finished.
    pub(crate) async fn remove_incomplete(self: &Arc<Self>, sandbox: &Sandbox) -> Result<()> {
        let mut failures = super::error::Failures::default();
        for container in self.containers_of(&sandbox.id) {
            if !container.look(|record| record.complete) {
                failures.note(self.remove_container_now(&container).await);
            }
        }
        failures.into_result()
    }
}
