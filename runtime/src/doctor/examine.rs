//! Looks several times, so that what is being made or removed right now is not taken for a leftover, and repairs.
//!
//! In: a configuration, a way to ask the engine ([`EngineSide`]), perhaps an agent's part. Out: a [`Report`].
//!
//! ```text
//!   look 1 ──clean──► clean          look: what the engine holds · records · kernel · what the engine holds
//!     │ findings                     a finding about an id that is being worked on, or that came or went meanwhile,
//!     ▼                              does not count
//!   look 2, 3, 4 ── none of them is in every look ──► clean
//!     │ those that are in every look
//!     ▼
//!   report ── repair ──► one more look: what is gone is repaired
//! ```

use std::{
    fs::File,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::FlockOperation;

use super::{
    Expected, Finding, Outcome, Remedy,
    compare::{Case, compare},
    found::{Found, MountTable},
    repair,
};
use crate::engine::{
    blocking,
    error::{Error, Result},
    layout::{EngineConfig, Layout},
};

/// How long to wait before each look. A pod is made or removed in a fraction of a second, and only what no id names (a queue, a
/// directory on its way out) must be waited for at all.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(700), Duration::from_millis(1500)];

/// A sandbox or container that an engine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: String,
    /// It is being made, changed or removed right now.
    pub busy: bool,
}

/// What an engine has in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Sandboxes, also those being made or removed.
    pub sandboxes: Vec<Held>,
    /// Containers, likewise.
    pub containers: Vec<Held>,
    /// Blobs and layers are being made that no image names yet.
    pub images_busy: bool,
}

/// What an engine is to give back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Sandboxes that it does not know: their addresses and interfaces.
    pub sandboxes: Vec<String>,
    /// Containers that it does not know: their snapshots.
    pub containers: Vec<String>,
    /// Blobs and layers that nothing needs.
    pub images: bool,
}

/// How to ask the engine.
#[async_trait::async_trait]
pub trait EngineSide: Send + Sync {
    /// What it holds; `None` if none runs, and none can start while this value is there.
    async fn holds(&self) -> Result<Option<Holds>>;

    /// Has it give something back.
    async fn release(&self, release: Release) -> Result<()>;
}

/// What an agent can say and do about its own directories and groups.
#[async_trait::async_trait]
pub trait AgentPart: Send + Sync {
    /// Compares what is the agent's.
    async fn look(&self, expected: &Expected, mounts: &MountTable, running: bool) -> Result<Vec<Finding>>;

    /// Puts right what [`Remedy::Agent`] names.
    fn repair(&self, path: &Path) -> Result<()>;
}

/// No engine: its lock is held.
#[derive(Debug)]
pub struct Stopped {
    _lock: Option<File>,
}

impl Stopped {
    /// Takes the lock of a state directory; `None` if an engine has it.
    ///
    /// # Errors
    /// When the lock cannot be opened for another reason than that there is none.
    pub fn lock(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.lock();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some(Self { _lock: None })),
            Err(e) => return Err(Error::io("opening", path)(e)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _lock: Some(file) })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Error::io("locking", path)(e)),
        }
    }
}

#[async_trait::async_trait]
impl EngineSide for Stopped {
    async fn holds(&self) -> Result<Option<Holds>> {
        Ok(None)
    }

    async fn release(&self, _release: Release) -> Result<()> {
        Err(Error::FailedPrecondition("no engine runs".to_owned()))
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether an engine runs.
    pub engine_runs: bool,
    /// How often was looked.
    pub looks: usize,
    /// What was in every look.
    pub findings: Vec<Finding>,
}

/// One instance to be examined.
#[derive(Clone, Copy)]
pub struct Doctor<'a> {
    /// The instance.
    pub config: &'a EngineConfig,
    /// Its engine.
    pub engine: &'a dyn EngineSide,
    /// Its agent, if it is known to have one.
    pub agent: Option<&'a dyn AgentPart>,
}

impl std::fmt::Debug for Doctor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doctor").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Doctor<'_> {
    /// Looks until it is clean, or often enough to be sure.
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub async fn examine(&self) -> Result<Report> {
        let mut report = Report { engine_runs: false, looks: 0, findings: Vec::new() };
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            let (engine_runs, now) = self.look().await?;
            // The newest explanation counts; being in every look is what matters.
            report.findings = match report.looks {
                0 => now,
                _ => now.into_iter().filter(|f| report.findings.iter().any(|old| old.is_same(f))).collect(),
            };
            report.engine_runs = engine_runs;
            report.looks += 1;
            if report.findings.is_empty() {
                break;
            }
        }
        Ok(report)
    }

    /// Puts right what can be, and looks whether it is.
    ///
    /// # Errors
    /// When something cannot be looked at.
    pub async fn repair(&self, report: &mut Report) -> Result<()> {
        let layout = Layout::new(self.config);
        // Once more: what vanished since the report is not touched.
        let (engine_runs, now) = self.look().await?;
        report.engine_runs = engine_runs;
        let mut failures: Vec<Option<String>> = Vec::new();
        for finding in &report.findings {
            let still = now.iter().any(|other| other.is_same(finding));
            failures.push(match (&finding.remedy, still) {
                (_, false) => None,
                (Remedy::None(why), true) => Some(why.clone()),
                (remedy, true) => self.apply(&layout, remedy, engine_runs).await.err().map(|e| e.chain()),
            });
        }
        let left = self.examine().await?;
        for (finding, failure) in report.findings.iter_mut().zip(failures) {
            let stays = left.findings.iter().any(|other| other.is_same(finding));
            finding.outcome = match (stays, failure) {
                (false, _) => Outcome::Repaired,
                (true, Some(reason)) => Outcome::NotRepaired(reason),
                (true, None) => Outcome::NotRepaired("it is there again".to_owned()),
            };
        }
        Ok(())
    }

    async fn apply(&self, layout: &Layout, remedy: &Remedy, engine_runs: bool) -> Result<()> {
        if let Remedy::Agent(path) = remedy {
            return match self.agent {
                Some(agent) => agent.repair(path),
                None => Err(Error::FailedPrecondition("it is an agent's".to_owned())),
            };
        }
        if let Some(release) = release_of(remedy).filter(|_| engine_runs) {
            return self.engine.release(release).await;
        }
        let (layout, remedy, cidr) = (layout.clone(), remedy.clone(), self.config.pod_cidr.clone());
        blocking(move || repair::apply(&layout, cidr.as_deref(), &remedy)).await
    }

    /// One look; what is being worked on is left out.
    async fn look(&self) -> Result<(bool, Vec<Finding>)> {
        let before = self.engine.holds().await?;
        let (layout, cidr) = (Layout::new(self.config), self.config.pod_cidr.clone());
        let held = before.clone();
        let (expected, mounts, mut findings) = blocking(move || {
            let expected = Expected::read(&layout, held.as_ref())?;
            let mounts = MountTable::read()?;
            let found = Found::read(&layout, cidr.as_deref(), (&expected, &mounts))?;
            let (layout, running) = (&layout, held.is_some());
            let case = Case { layout, expected: &expected, found: &found, running, now: SystemTime::now() };
            let findings = compare(case);
            Ok((expected, mounts, findings))
        })
        .await?;
        if let Some(agent) = self.agent {
            findings.extend(agent.look(&expected, &mounts, before.is_some()).await?);
        }
        let after = self.engine.holds().await?;
        if let (Some(before), Some(after)) = (&before, &after) {
            findings.retain(|finding| is_settled(finding, &expected, (before, after)));
        }
        Ok((before.is_some(), findings))
    }
}

/// What a running engine has to do itself, because it has it in memory too.
fn release_of(remedy: &Remedy) -> Option<Release> {
    match remedy {
        Remedy::ReleaseLease { sandbox, .. } => {
            Some(Release { sandboxes: vec![sandbox.clone()], ..Release::default() })
        }
        Remedy::RemoveSnapshot(key) => Some(Release { containers: vec![key.clone()], ..Release::default() }),
        Remedy::Discard(_) => Some(Release { images: true, ..Release::default() }),
        Remedy::None(_)
        | Remedy::Unmount(_)
        | Remedy::RemoveGroup(_)
        | Remedy::Kill { .. }
        | Remedy::DeleteLink(_)
        | Remedy::ReplaceTable
        | Remedy::RemoveFile(_)
        | Remedy::RemoveDirectory(_)
        | Remedy::Agent(_) => None,
    }
}

/// Whether a finding is about something that nobody worked on before or after the look.
fn is_settled(finding: &Finding, expected: &Expected, (before, after): (&Holds, &Holds)) -> bool {
    if matches!(finding.remedy, Remedy::Discard(_)) && (before.images_busy || after.images_busy) {
        return false;
    }
    let Some(owner) = finding.owner.as_deref() else { return true };
    let state = |holds: &Holds, id: &str| {
        let mut all = holds.sandboxes.iter().chain(&holds.containers);
        all.find(|held| held.id == id).map(|held| held.busy)
    };
    let same = |id: &str| {
        let (before, after) = (state(before, id), state(after, id));
        before == after && before != Some(true)
    };
    same(owner) && expected.sandbox_of(owner).is_none_or(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Kind;

    fn holds(ids: &[(&str, bool)]) -> Holds {
        let sandboxes = ids.iter().map(|(id, busy)| Held { id: (*id).to_owned(), busy: *busy }).collect();
        Holds { sandboxes, ..Holds::default() }
    }

    #[test]
    fn what_is_being_worked_on_or_came_or_went_meanwhile_does_not_count() {
        let expected = Expected::default();
        let finding = Finding::surplus(Kind::Mount, "m", "w").owner("a");
        let (idle, busy, none) = (holds(&[("a", false)]), holds(&[("a", true)]), holds(&[]));
        assert!(is_settled(&finding, &expected, (&idle, &idle)));
        assert!(is_settled(&finding, &expected, (&none, &none)), "an id that nobody knows is a leftover");
        for pair in [(&busy, &idle), (&idle, &busy), (&busy, &busy), (&none, &idle), (&idle, &none)] {
            assert!(!is_settled(&finding, &expected, pair), "{pair:?}");
        }
        let nobodys = Finding::surplus(Kind::Mount, "m", "w");
        assert!(is_settled(&nobodys, &expected, (&busy, &busy)));
    }

    #[test]
    fn what_a_pull_may_be_about_to_name_does_not_count_while_one_runs() {
        let layer = Finding::surplus(Kind::Layer, "l", "w").remedy(Remedy::Discard("l".into()));
        let pulling = Holds { images_busy: true, ..Holds::default() };
        assert!(!is_settled(&layer, &Expected::default(), (&Holds::default(), &pulling)));
        assert!(is_settled(&layer, &Expected::default(), (&Holds::default(), &Holds::default())));
    }
}
