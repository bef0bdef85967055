//! Sandboxes and containers as the engine holds them in memory.
//!
//! In: records, and what supervisors report. Out: snapshots for lists; a watch on every container's [`Phase`]. Short
//! locks only: nothing here waits or does IO. Operations that must not run side by side take `op`.
//!
//! ```text
//!  container:  (incomplete) ── create ──► Created ── start ──► Running ── exit ──► Exited
//!                                         ▲  └───────── killed, cannot run ───────▲─┘
//!                              Unknown ───┴── its supervisor answers, or is dead ─┘
//! ```
//! A sandbox that a new engine found is *awaited* until its supervisor has told what runs; its containers are Unknown.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pintle_shim_protocol::ExitRecord;
use tokio::sync::watch;

use super::{
    records::{ContainerRecord, End, SandboxPhase, SandboxRecord},
    stats::{disk::Figures, rate::Rate},
    supervisor_client::Connection,
};

/// A pod's sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Held while it is made, changed or removed, and while a container is made in it.
    pub op: tokio::sync::Mutex<()>,
    pub(crate) rate: Rate,
    state: Mutex<SandboxState>,
}

#[derive(Debug)]
struct SandboxState {
    record: SandboxRecord,
    connection: Option<Connection>,
    infra_alive: bool,
    awaited: bool,
    network_broken: bool,
}

impl Sandbox {
    /// A sandbox with nothing running.
    #[must_use]
    pub fn new(record: SandboxRecord, dir: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            op: tokio::sync::Mutex::default(),
            rate: Rate::default(),
            state: Mutex::new(SandboxState {
                record,
                connection: None,
                infra_alive: false,
                awaited: false,
                network_broken: false,
            }),
        }
    }

    /// Its record as it is now.
    #[must_use]
    pub fn record(&self) -> SandboxRecord {
        lock(&self.state).record.clone()
    }

    /// A look at its record, without a copy of it. Must not wait.
    pub fn look<T>(&self, look: impl FnOnce(&SandboxRecord) -> T) -> T {
        look(&lock(&self.state).record)
    }

    /// Changes its record in memory and returns it, to be saved.
    pub fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> SandboxRecord {
        let mut state = lock(&self.state);
        change(&mut state.record);
        state.record.clone()
    }

    /// Whether it was made completely and its infra container is known to live.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = lock(&self.state);
        state.record.phase == SandboxPhase::Ready && state.infra_alive && !state.network_broken
    }

    /// Whether its supervisor lives, as far as is known, and has not told this engine yet what runs.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        lock(&self.state).awaited
    }

    /// Notes whether its supervisor is waited for; returns whether that is news.
    pub fn set_awaited(&self, awaited: bool) -> bool {
        std::mem::replace(&mut lock(&self.state).awaited, awaited) != awaited
    }

    /// Its interface is gone; that cannot be mended.
    pub fn note_broken_network(&self) {
        lock(&self.state).network_broken = true;
    }

    /// Notes whether the infra container lives; returns whether that is news.
    pub fn set_infra_alive(&self, alive: bool) -> bool {
        std::mem::replace(&mut lock(&self.state).infra_alive, alive) != alive
    }

    /// The connection to its supervisor, while there is one.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        lock(&self.state).connection.clone()
    }

    /// Takes a new connection, or `None` before the supervisor is told to end.
    pub fn set_connection(&self, connection: Option<Connection>) -> Option<Connection> {
        std::mem::replace(&mut lock(&self.state).connection, connection)
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// A new engine found it, and its supervisor has not told yet.
    Unknown,
    /// Its process waits to be started.
    Created,
    /// Its program runs.
    Running {
        /// Since when, in nanoseconds since 1970.
        started_at: i64,
    },
    /// It is over.
    Exited(End),
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: Arc<Sandbox>,
    /// Its directory, which is its bundle.
    pub dir: PathBuf,
    /// Held while it is started, signalled or removed.
    pub op: tokio::sync::Mutex<()>,
    pub(crate) rate: Rate,
    pub(crate) figures: Figures,
    state: Mutex<ContainerState>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug)]
struct ContainerState {
    record: ContainerRecord,
    /// A start is on its way: an exit reported meanwhile is held back until its outcome is known.
    starting: bool,
    held: Option<End>,
}

impl Container {
    /// A container in a phase.
    #[must_use]
    pub fn new(record: ContainerRecord, sandbox: Arc<Sandbox>, dir: PathBuf, phase: Phase) -> Self {
        Self {
            id: record.id.clone(),
            sandbox,
            dir,
            op: tokio::sync::Mutex::default(),
            rate: Rate::default(),
            figures: Figures::default(),
            state: Mutex::new(ContainerState { record, starting: false, held: None }),
            phase: watch::Sender::new(phase),
        }
    }

    /// Its record as it is now.
    #[must_use]
    pub fn record(&self) -> ContainerRecord {
        lock(&self.state).record.clone()
    }

    /// A look at its record, without a copy of it. Must not wait.
    pub fn look<T>(&self, look: impl FnOnce(&ContainerRecord) -> T) -> T {
        look(&lock(&self.state).record)
    }

    /// Changes its record in memory and returns it, to be saved.
    pub fn update(&self, change: impl FnOnce(&mut ContainerRecord)) -> ContainerRecord {
        let mut state = lock(&self.state);
        change(&mut state.record);
        state.record.clone()
    }

    /// Its phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Tells whenever its phase changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// A start begins.
    pub fn begin_start(&self) {
        lock(&self.state).starting = true;
    }

    /// A start has succeeded. Returns the end that was reported meanwhile.
    pub fn started(&self, started_at: i64) -> Option<End> {
        let mut state = lock(&self.state);
        state.starting = false;
        self.phase.send_if_modified(|phase| {
            let news = matches!(phase, Phase::Created | Phase::Unknown);
            if news {
                *phase = Phase::Running { started_at };
            }
            news
        });
        state.held.take()
    }

    /// Its supervisor has told that it was not started yet.
    pub fn was_created(&self) {
        self.phase.send_if_modified(|phase| {
            let news = *phase == Phase::Unknown;
            if news {
                *phase = Phase::Created;
            }
            news
        });
    }

    /// A start has failed. Returns the end that was reported meanwhile.
    pub fn start_failed(&self) -> Option<End> {
        let mut state = lock(&self.state);
        state.starting = false;
        state.held.take()
    }

    /// Its program could not be executed: that is how it ended, whatever was reported of its first process meanwhile.
    /// Returns whether that is news.
    pub fn cannot_run(&self, end: End) -> bool {
        let mut state = lock(&self.state);
        state.starting = false;
        state.held = None;
        self.end_phase(end)
    }

    /// It has ended. Returns whether that is news; the first report counts.
    pub fn ended(&self, end: End) -> bool {
        let mut state = lock(&self.state);
        if state.starting {
            state.held = Some(end);
            return false;
        }
        self.end_phase(end)
    }

    fn end_phase(&self, end: End) -> bool {
        self.phase.send_if_modified(|phase| {
            let news = !matches!(phase, Phase::Exited(_));
            if news {
                *phase = Phase::Exited(end);
            }
            news
        })
    }
}

/// CRI's view of how a container ended.
#[must_use]
pub fn end_of(exit: &ExitRecord) -> End {
    let (reason, message) = match exit {
        ExitRecord { oom_killed: true, code, .. } if *code != 0 => ("OOMKilled", ""),
        ExitRecord { code: 0, .. } => ("Completed", ""),
        ExitRecord { started_at: 0, signal: None, .. } => {
            ("ContainerCannotRun", "its program could not be executed")
        }
        ExitRecord { .. } => ("Error", ""),
    };
    End {
        code: exit.code,
        reason: reason.to_owned(),
        message: message.to_owned(),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        let sandbox: SandboxRecord =
            serde_json::from_str(include_str!("../../tests/golden/sandbox.json")).unwrap();
        let record: ContainerRecord =
            serde_json::from_str(include_str!("../../tests/golden/container.json")).unwrap();
        let sandbox = Arc::new(Sandbox::new(sandbox, PathBuf::new()));
        Container::new(record, sandbox, PathBuf::new(), Phase::Created)
    }

    fn exit(code: i32) -> ExitRecord {
        ExitRecord { v: 1, code, signal: None, oom_killed: false, started_at: 1, finished_at: 2 }
    }

    #[test]
    fn an_exit_reported_before_the_starts_answer_comes_after_it() {
        let container = container();
        container.begin_start();
        assert!(!container.ended(end_of(&exit(3))));
        assert_eq!(container.phase(), Phase::Created);
        let held = container.started(1).unwrap();
        assert_eq!(container.phase(), Phase::Running { started_at: 1 });
        assert!(container.ended(held));
    }

    #[test]
    fn why_a_program_cannot_run_counts_and_not_the_exit_reported_before_that_is_on_disk() {
        let container = container();
        container.begin_start();
        assert!(!container.ended(end_of(&exit(127))));
        assert!(container.cannot_run(end_of(&exit(128))));
        assert!(!container.ended(end_of(&exit(127))));
        assert_eq!(container.phase(), Phase::Exited(end_of(&exit(128))));
    }

    #[test]
    fn what_a_supervisor_tells_replaces_what_is_not_known_and_nothing_else() {
        let container = container();
        container.was_created();
        assert_eq!(container.phase(), Phase::Created);
        container.phase.send_replace(Phase::Unknown);
        container.was_created();
        assert_eq!(container.phase(), Phase::Created);
        container.phase.send_replace(Phase::Unknown);
        assert_eq!(container.started(7), None);
        container.was_created();
        assert_eq!(container.phase(), Phase::Running { started_at: 7 });
    }

    #[test]
    fn only_the_first_end_counts() {
        let container = container();
        assert!(container.ended(end_of(&exit(3))));
        assert!(!container.ended(end_of(&exit(4))));
        assert_eq!(container.phase(), Phase::Exited(end_of(&exit(3))));
    }

    #[test]
    fn the_reason_follows_from_the_exit_record() {
        assert_eq!(end_of(&exit(0)).reason, "Completed");
        assert_eq!(end_of(&exit(1)).reason, "Error");
        assert_eq!(end_of(&ExitRecord { oom_killed: true, ..exit(137) }).reason, "OOMKilled");
        assert_eq!(end_of(&ExitRecord { oom_killed: true, ..exit(0) }).reason, "Completed");
        assert_eq!(end_of(&ExitRecord { started_at: 0, ..exit(127) }).reason, "ContainerCannotRun");
        let killed = ExitRecord { started_at: 0, signal: Some(9), ..exit(137) };
        assert_eq!(end_of(&killed).reason, "Error");
    }
}
