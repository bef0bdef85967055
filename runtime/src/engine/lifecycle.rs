//! Starts, stops and removes containers: CRI's calls of the same names. Their limits are changed in `update`.
//!
//! In: a container's id. Out: the container in its new phase. Stopping waits without holding a lock, so that a second stop
//! with less grace is not delayed by the first. Every operation may be repeated.

use std::{sync::Arc, time::Duration};

use pintle_shim_protocol::{Answer, ErrorCode, KillScope, Request};
use tracing::Instrument as _;

use super::{
    Engine, blocking, detached,
    error::{Error, Failures, Result},
    host,
    records::{self, End},
    sandbox::REQUEST_LIMIT,
    sandbox_files,
    state::{Container, Phase, Sandbox},
    supervisor_client::{self, Connection, unexpected},
    view,
};
use crate::{spec::signal::SIGKILL, waterfall::stage};

/// The exit code of a container whose program could not be executed.
pub const CANNOT_RUN_EXIT_CODE: i32 = 128;
/// How long a container may take to be gone after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// The longest grace that is honoured; also what an enormous one means. A negative one means none.
const MAX_GRACE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Engine {
    /// Lets a created container's program run. It runs already: nothing happens.
    ///
    /// # Errors
    /// When the program cannot be executed, or the container is over.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let engine = Arc::clone(self);
        detached(async move {
            let _op = container.op.lock().await;
            match container.phase() {
                Phase::Unknown => Err(awaited(&container.sandbox)),
                Phase::Running { .. } => Ok(()),
                Phase::Exited(_) => {
                    Err(Error::FailedPrecondition(format!("container {} has ended already", container.id)))
                }
                Phase::Created => {
                    let (sandbox, id) = (&container.sandbox.id, &container.id);
                    let operation = stage!("start_container", sandbox = %sandbox, container = %id);
                    engine.start_locked(&container).instrument(operation).await
                }
            }
        })
        .await
    }

    async fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        let connection = connection_of(container)?;
        container.begin_start();
        let request = Request::Start { container: container.id.clone() };
        match connection.request(request, REQUEST_LIMIT).instrument(stage!("start")).await {
            Ok(Answer::Started { started_at }) => {
                let held = container.started(started_at);
                self.publish_container(container, view::STARTED);
                if let Some(end) = held {
                    self.note_end(container, end);
                }
                Ok(())
            }
            Ok(other) => {
                self.note_held(container);
                Err(Error::supervisor("starting the container")(unexpected(&other)))
            }
            Err(error) => {
                if let Some(failure) = error.failure().filter(|f| f.code == ErrorCode::ExecFailed) {
                    self.note_cannot_run(container, &failure.message).await;
                } else {
                    self.note_held(container);
                    self.look_again(container, &connection).await;
                }
                Err(Error::supervisor("starting the container")(error))
            }
        }
    }

    /// A start whose outcome is not known may have happened.
    async fn look_again(&self, container: &Container, connection: &Connection) {
        match connection.list().await {
            Ok(known) => self.apply_list(&container.sandbox, &known),
            Err(error) => {
                tracing::debug!(container = %container.id, %error, "what became of a start is not known")
            }
        }
    }

    fn note_held(&self, container: &Container) {
        if let Some(end) = container.start_failed() {
            self.note_end(container, end);
        }
    }

    /// The program could not be executed: that is how the container ended, whatever the exit record says.
    async fn note_cannot_run(&self, container: &Arc<Container>, message: &str) {
        let end = End {
            code: CANNOT_RUN_EXIT_CODE,
            reason: "ContainerCannotRun".to_owned(),
            message: message.to_owned(),
            started_at: 0,
            finished_at: host::now(),
        };
        // The exit of the first process, which may be reported at any moment, is held back until this is on disk.
        let record = container.update(|record| record.end = Some(end.clone()));
        let dir = container.dir.clone();
        if let Err(error) = blocking(move || records::save(&dir, &record)).await {
            tracing::warn!(container = %container.id, error = error.chain(), "the end cannot be recorded");
        }
        if container.cannot_run(end) {
            self.publish_container(container, view::STOPPED);
        }
    }

    /// Asks a container to stop and, after its grace (in seconds), kills it. It does not run: nothing happens.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when even SIGKILL does not end it.
    pub async fn stop_container(self: &Arc<Self>, id: &str, grace: i64) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        detached(async move {
            let grace = u64::try_from(grace).map_or(Duration::ZERO, Duration::from_secs).min(MAX_GRACE);
            let connection = {
                // A start on its way is waited for, so that its container is not missed.
                let _op = container.op.lock().await;
                match container.phase() {
                    Phase::Unknown => return Err(awaited(&container.sandbox)),
                    Phase::Created | Phase::Exited(_) => return Ok(()),
                    Phase::Running { .. } => {}
                }
                connection_of(&container)?
            };
            if !grace.is_zero() {
                let signal = container.record().stop_signal;
                kill(&connection, &container, signal, KillScope::Init).await?;
                if ends_within(&container, grace).await {
                    return Ok(());
                }
            }
            // It may be another one than before the grace; where there is none any more, the pod is being killed.
            if let Some(connection) = container.sandbox.connection() {
                kill(&connection, &container, SIGKILL, KillScope::All).await?;
            }
            match ends_within(&container, KILL_LIMIT).await {
                true => Ok(()),
                false => {
                    let text = format!("container {} does not end on SIGKILL", container.id);
                    Err(Error::DeadlineExceeded(text))
                }
            }
        })
        .await
    }

    /// Removes a container, killing it first. No such container: nothing happens.
    ///
    /// # Errors
    /// With everything that could not be removed; it may be called again.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let engine = Arc::clone(self);
        detached(async move {
            let _op = container.op.lock().await;
            if engine.container_in_any_state(&container.id).is_none() {
                return Ok(());
            }
            engine.remove_container_now(&container).await
        })
        .await
    }

    /// Removes a container in whatever state.
    pub(crate) async fn remove_container_now(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let mut failures = Failures::default();
        if let Some(connection) = container.sandbox.connection() {
            let request = Request::Remove { container: container.id.clone() };
            match connection.request(request, REQUEST_LIMIT).await {
                Ok(_) => {}
                Err(error) if error.failure().is_some_and(|f| f.code == ErrorCode::NotFound) => {}
                Err(error) => {
                    tracing::warn!(container = %container.id, %error, "the supervisor did not remove a container");
                }
            }
        }
        let complete = container.record().complete;
        let engine = Arc::clone(self);
        let removed = Arc::clone(container);
        failures.note(
            blocking(move || {
                let mut failures = Failures::default();
                failures.note(engine.cgroups.kill_and_remove(&removed.record().cgroup));
                let snapshot = engine.images.remove_snapshot(&removed.id);
                failures.note(snapshot.map_err(Error::image("removing the container's snapshot")));
                failures.note(engine.unmount_images(&removed.record()));
                failures.into_result()?;
                sandbox_files::remove_dir(&removed.dir)
            })
            .await,
        );
        failures.into_result()?;
        if self.forget_container(&container.id) && complete {
            self.publish_removed(&container.id, Some(&container.sandbox));
        }
        Ok(())
    }

    /// Opens a running container's log file again, after a rotation renamed it.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn reopen_container_log(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        check_runs(&container)?;
        let request = Request::ReopenLog { container: container.id.clone() };
        let answer = connection_of(&container)?.request(request, REQUEST_LIMIT).await;
        answer.map(drop).map_err(Error::supervisor("opening the log again"))
    }
}

/// Why nothing can be done in a sandbox whose supervisor has not answered yet.
pub(crate) fn awaited(sandbox: &Sandbox) -> Error {
    let text =
        format!("the supervisor of sandbox {} has not answered yet; its pod is left alone", sandbox.id);
    Error::Unavailable(text)
}

/// Refuses what can only be done to a container that runs.
pub(crate) fn check_runs(container: &Container) -> Result<()> {
    match container.phase() {
        Phase::Running { .. } => Ok(()),
        Phase::Unknown => Err(awaited(&container.sandbox)),
        Phase::Created | Phase::Exited(_) => {
            Err(Error::FailedPrecondition(format!("container {} does not run", container.id)))
        }
    }
}

/// The connection to the supervisor of a container.
pub(crate) fn connection_of(container: &Container) -> Result<Connection> {
    let connection = container.sandbox.connection();
    connection.ok_or_else(|| {
        Error::FailedPrecondition(format!("sandbox {} has no supervisor any more", container.sandbox.id))
    })
}

/// Sends a signal. A supervisor that dies meanwhile ends the container too, which is what was wanted.
async fn kill(connection: &Connection, container: &Container, signal: i32, scope: KillScope) -> Result<()> {
    let request = Request::Kill { container: container.id.clone(), signal, scope };
    match connection.request(request, REQUEST_LIMIT).await {
        Ok(_) => Ok(()),
        Err(supervisor_client::Error::Closed) if ends_within(container, KILL_LIMIT).await => Ok(()),
        Err(error) => Err(Error::supervisor("sending a signal to the container")(error)),
    }
}

/// Waits for a container's end; whether it came in time.
async fn ends_within(container: &Container, limit: Duration) -> bool {
    let mut watch = container.watch();
    let gone = watch.wait_for(|phase| matches!(phase, Phase::Exited(_)));
    tokio::time::timeout(limit, gone).await.is_ok()
}
