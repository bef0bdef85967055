//! What supervisors report, and what it means when one falls silent.
//!
//! In: events and the end of a connection, from the connection's task. Out: containers and sandboxes in their new phase,
//! events published; a lost connection is made again, and a dead supervisor's pod declared dead and its processes
//! killed. It takes nothing down: the agent decides what becomes of a pod whose sandbox is not ready.

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use pintle_shim_protocol::{ContainerState, Event, ExitRecord};

use super::{
    Engine, blocking,
    error::{Error, Result},
    host,
    records::{self, End, SandboxPhase},
    state::{Container, Phase, Sandbox, end_of},
    supervisor_client::{self, Listener},
    view,
};

/// How often a connection to a supervisor that lives but does not answer is tried again.
const RECONNECT_EVERY: Duration = Duration::from_secs(2);

/// The exit code of a container whose end nobody saw.
pub const LOST_EXIT_CODE: i32 = 255;

/// Hands one sandbox's reports to the engine, as long as there is one.
#[derive(Debug)]
pub struct SandboxListener {
    engine: Weak<Engine>,
    sandbox: String,
}

impl SandboxListener {
    /// The listener for a sandbox's connection.
    #[must_use]
    pub fn new(engine: &Arc<Engine>, sandbox: &str) -> Self {
        Self { engine: Arc::downgrade(engine), sandbox: sandbox.to_owned() }
    }
}

impl Listener for SandboxListener {
    fn event(&self, event: Event) {
        if let Some(engine) = self.engine.upgrade() {
            engine.on_event(&self.sandbox, event);
        }
    }

    fn closed(&self) {
        let Some(engine) = self.engine.upgrade() else { return };
        if let Ok(sandbox) = engine.sandbox(&self.sandbox) {
            spawn_look_into(Weak::clone(&self.engine), sandbox);
        }
    }
}

impl Engine {
    fn on_event(&self, sandbox: &str, event: Event) {
        match event {
            Event::Exited { container, exit } if container == sandbox => {
                tracing::debug!(sandbox, code = exit.code, "the infra container ended");
                self.on_infra_ended(sandbox);
            }
            Event::Exited { container, exit } => self.on_exit(&container, &exit),
            Event::Oom { container } => tracing::info!(container, "out of memory"),
        }
    }

    fn on_infra_ended(&self, id: &str) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        let news = sandbox.set_infra_alive(false);
        if news && sandbox.record().phase == SandboxPhase::Ready {
            self.publish_sandbox(&sandbox, view::STOPPED);
        }
    }

    fn on_exit(&self, id: &str, exit: &ExitRecord) {
        if let Some(container) = self.container_in_any_state(id) {
            self.note_end(&container, end_of(exit));
        }
    }

    /// A container has ended: everybody who waits for it is told, once.
    pub(crate) fn note_end(&self, container: &Container, end: End) {
        tracing::debug!(container = %container.id, code = end.code, reason = %end.reason, "a container ended");
        if container.ended(end) {
            self.publish_container(container, view::STOPPED);
        }
    }

    /// Brings what is held in memory up to what a supervisor says.
    pub(crate) fn apply_list(&self, sandbox: &Sandbox, known: &[ContainerState]) {
        let infra = known.iter().find(|state| state.container == sandbox.id);
        let alive = infra.is_some_and(|state| state.exit.is_none());
        if sandbox.set_infra_alive(alive) && !alive && sandbox.record().phase == SandboxPhase::Ready {
            self.publish_sandbox(sandbox, view::STOPPED);
        }
        for state in known.iter().filter(|state| state.container != sandbox.id) {
            let Some(container) = self.container_in_any_state(&state.container) else { continue };
            if let Some(exit) = &state.exit {
                self.note_end(&container, end_of(exit));
            } else if let Some(started_at) = state.started_at
                && let Some(end) = container.started(started_at)
            {
                self.note_end(&container, end);
            }
        }
    }

    /// Connects again and learns what happened meanwhile.
    pub(crate) async fn reconnect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Reconnected {
        match self.connect(sandbox).await {
            Ok((_, known)) => {
                self.apply_list(sandbox, &known);
                Reconnected::Yes
            }
            Err(Error::Supervisor { source: supervisor_client::Error::Connect { .. }, .. }) => {
                Reconnected::Dead
            }
            Err(error) => Reconnected::NotNow(error.chain()),
        }
    }

    /// A supervisor is dead: nobody watches its pod, so what is left of it is killed.
    pub(crate) async fn supervisor_died(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let _op = sandbox.op.lock().await;
        if sandbox.connection().is_none_or(|connection| !connection.is_closed()) {
            return Ok(());
        }
        sandbox.set_connection(None);
        tracing::warn!(sandbox = %sandbox.id, "the supervisor of a pod died; killing the pod");
        let killed = self.kill_leftovers(sandbox).await;
        self.on_infra_ended(&sandbox.id);
        self.end_containers(sandbox, "its supervisor died").await;
        killed
    }

    /// Gives every container of a sandbox that is not known to have ended its end: its exit record's, or an invented one.
    pub(crate) async fn end_containers(&self, sandbox: &Sandbox, why: &'static str) {
        for container in self.containers_of(&sandbox.id) {
            if matches!(container.phase(), Phase::Exited(_)) {
                continue;
            }
            let end = self.find_end(&container, why).await;
            self.note_end(&container, end);
        }
    }

    /// How a container ended that nobody watches any more.
    pub(crate) async fn find_end(&self, container: &Arc<Container>, why: &'static str) -> End {
        let dir = container.dir.clone();
        let recorded = blocking(move || read_exit(&dir)).await;
        if let Ok(Some(exit)) = recorded {
            return end_of(&exit);
        }
        let started_at = match container.phase() {
            Phase::Running { started_at } => started_at,
            Phase::Created => 0,
            Phase::Exited(end) => return end,
        };
        let end = End {
            code: LOST_EXIT_CODE,
            reason: "Error".to_owned(),
            message: format!("how it ended is not known: {why}"),
            started_at,
            finished_at: host::now(),
        };
        let record = container.update(|record| record.end = Some(end.clone()));
        let dir = container.dir.clone();
        if let Err(error) = blocking(move || records::save(&dir, &record)).await {
            tracing::warn!(container = %container.id, error = error.chain(), "the end cannot be recorded");
        }
        end
    }
}

/// Starts a task that finds out why a connection has ended.
pub(crate) fn spawn_look_into(engine: Weak<Engine>, sandbox: Arc<Sandbox>) {
    tokio::spawn(look_into(engine, sandbox));
}

/// The connection has ended. If the engine did not end it, either the supervisor is dead or it had enough of us.
async fn look_into(engine: Weak<Engine>, sandbox: Arc<Sandbox>) {
    loop {
        let Some(engine) = engine.upgrade() else { return };
        if sandbox.connection().is_none_or(|connection| !connection.is_closed()) {
            return;
        }
        match engine.reconnect(&sandbox).await {
            Reconnected::Yes => return,
            Reconnected::Dead => {
                if let Err(error) = engine.supervisor_died(&sandbox).await {
                    tracing::error!(sandbox = %sandbox.id, error = error.chain(), "cleaning up after a dead supervisor");
                }
                return;
            }
            Reconnected::NotNow(error) => {
                tracing::warn!(sandbox = %sandbox.id, %error, "a supervisor does not answer");
            }
        }
        drop(engine);
        tokio::time::sleep(RECONNECT_EVERY).await;
    }
}

/// What came of connecting to a supervisor again.
pub(crate) enum Reconnected {
    /// It answers.
    Yes,
    /// Nobody listens at its socket.
    Dead,
    /// It is there and does not answer, for this reason.
    NotNow(String),
}

/// Reads a supervisor's exit record.
///
/// # Errors
/// When there is one and it cannot be understood.
pub fn read_exit(dir: &Path) -> Result<Option<ExitRecord>> {
    let path = dir.join(ExitRecord::FILE);
    let Some(text) = records::read_bounded(&path)? else { return Ok(None) };
    let exit = serde_json::from_slice(&text).map_err(|e| Error::Record { path, reason: e.to_string() })?;
    Ok(Some(exit))
}
