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

/// When a connection to a supervisor that lives but does not answer is tried again: first, and at most. One that is just
/// being killed is found dead by the first tries.
const RECONNECT_FIRST: Duration = Duration::from_millis(10);
const RECONNECT_MOST: Duration = Duration::from_secs(2);

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
    pub(crate) fn apply_list(&self, sandbox: &Arc<Sandbox>, known: &[ContainerState]) {
        let infra = known.iter().find(|state| state.container == sandbox.id);
        let alive = infra.is_some_and(|state| state.exit.is_none());
        if sandbox.set_infra_alive(alive) && !alive && sandbox.record().phase == SandboxPhase::Ready {
            self.publish_sandbox(sandbox, view::STOPPED);
        }
        for state in known.iter().filter(|state| state.container != sandbox.id) {
            let Some(container) = self.container_in_any_state(&state.container) else { continue };
            if let Some(exit) = &state.exit {
                self.note_end(&container, end_of(exit));
            } else if let Some(started_at) = state.started_at {
                if let Some(end) = container.started(started_at) {
                    self.note_end(&container, end);
                }
            } else {
                container.was_created();
            }
        }
    }

    /// Connects again and learns what happened meanwhile.
    async fn reconnect(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<Reconnected> {
        if sandbox.is_awaited() {
            return self.adopt(sandbox).await;
        }
        Ok(match self.ask(sandbox).await {
            Ok(known) => {
                self.apply_list(sandbox, &known);
                Reconnected::Yes
            }
            Err(otherwise) => otherwise,
        })
    }

    /// Connects to a supervisor and asks what it knows.
    ///
    /// It is dead when nobody listens at its socket, or when whoever holds the socket open is not it (a process that it
    /// forked and that hangs); and never while its process is there.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
    ) -> std::result::Result<Vec<ContainerState>, Reconnected> {
        let error = match self.connect(sandbox).await {
            Ok((_, known)) => return Ok(known),
            Err(error) => error,
        };
        let connect =
            |source: &supervisor_client::Error| matches!(source, supervisor_client::Error::Connect { .. });
        let nobody_listens = matches!(&error, Error::Supervisor { source, .. } if connect(source));
        let pid = sandbox.look(|record| record.supervisor_pid);
        let lives = match pid {
            Some(pid) => self.cgroups.may_hold(&self.supervisor_cgroup(&sandbox.id), pid),
            None => !nobody_listens,
        };
        if lives { Err(Reconnected::NotNow(error.chain())) } else { Err(Reconnected::Dead) }
    }

    /// A supervisor is dead: nobody watches its pod, so what is left of it is killed.
    pub(crate) async fn supervisor_died(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let _op = sandbox.op.lock().await;
        if !is_cut_off(sandbox) {
            return Ok(());
        }
        sandbox.set_connection(None);
        tracing::warn!(sandbox = %sandbox.id, "the supervisor of a pod is dead; killing the pod");
        let killed = self.kill_leftovers(sandbox).await;
        // First the pod: nobody shall see that its containers have ended and still take it for ready.
        let died = sandbox.set_infra_alive(false);
        self.end_containers(sandbox, "its supervisor died").await;
        let was_awaited = sandbox.set_awaited(false);
        if was_awaited && sandbox.look(|record| record.phase == SandboxPhase::Intent) {
            // Its record is lost, and nobody is left to tell how far it had come.
            return self.remove_unfinished(sandbox).await;
        }
        if (died || was_awaited) && sandbox.look(|record| record.phase == SandboxPhase::Ready) {
            self.publish_sandbox(sandbox, view::STOPPED);
        }
        let removed = self.remove_incomplete(sandbox).await;
        killed.and(removed)
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
            Phase::Created | Phase::Unknown => 0,
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

/// Whether there ought to be a connection and is none.
fn is_cut_off(sandbox: &Sandbox) -> bool {
    sandbox.is_awaited() || sandbox.connection().is_some_and(|connection| connection.is_closed())
}

/// The connection has ended, or there never was one. If the engine did not end it, either the supervisor is dead, or it
/// had enough of us, or it does not answer yet.
async fn look_into(engine: Weak<Engine>, sandbox: Arc<Sandbox>) {
    let mut wait = RECONNECT_FIRST;
    loop {
        let Some(engine) = engine.upgrade() else { return };
        if !is_cut_off(&sandbox) {
            return;
        }
        match engine.reconnect(&sandbox).await {
            Ok(Reconnected::Yes) => return,
            Ok(Reconnected::Dead) => {
                if let Err(error) = engine.supervisor_died(&sandbox).await {
                    tracing::error!(sandbox = %sandbox.id, error = error.chain(), "cleaning up after a dead supervisor");
                }
                return;
            }
            Ok(Reconnected::NotNow(error)) => {
                tracing::debug!(sandbox = %sandbox.id, %error, "a supervisor does not answer");
            }
            Err(error) => {
                tracing::error!(sandbox = %sandbox.id, error = error.chain(), "recovery is incomplete");
            }
        }
        drop(engine);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT_MOST);
    }
}

/// What came of connecting to a supervisor again.
pub(crate) enum Reconnected {
    /// It answers.
    Yes,
    /// It is no more.
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
