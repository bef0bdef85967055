//! One sandbox for one pod and attempt: the same request twice makes one sandbox.
//!
//! In: requests to make a sandbox. Out: one that is being made is waited for; one that is there answers for an equal
//! request; a different request is refused with its id. A request whose caller went away, or that failed, blocks nobody:
//! what is reserved is reserved only while somebody works on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use super::{
    Engine,
    error::{Error, Result},
    lifecycle::awaited,
    records::{SandboxConfig, SandboxPhase},
    state::Sandbox,
};
use crate::spec::bounds::MAX_SANDBOXES;

/// What Kubernetes calls a sandbox by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
}

impl Identity {
    pub(crate) fn of(config: &SandboxConfig) -> Self {
        let SandboxConfig { namespace, name, uid, attempt, .. } = config.clone();
        Self { namespace, name, uid, attempt }
    }

    fn is(&self, config: &SandboxConfig) -> bool {
        // The one that differs most comes first.
        self.uid == config.uid
            && self.attempt == config.attempt
            && self.name == config.name
            && self.namespace == config.namespace
    }
}

/// The identities that somebody works on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identities {
    locks: Arc<Mutex<HashMap<Identity, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Identities {
    /// Waits until nobody else works on an identity, and keeps others off it until the claim is dropped.
    pub(crate) async fn claim(&self, identity: Identity) -> Claim {
        let lock = Arc::clone(self.all().entry(identity.clone()).or_default());
        let guard = Some(lock.lock_owned().await);
        Claim { identities: self.clone(), identity, guard }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Identity, Arc<tokio::sync::Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's work on an identity.
#[derive(Debug)]
pub(crate) struct Claim {
    identities: Identities,
    identity: Identity,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.guard = None;
        let mut all = self.identities.all();
        // Who waits for it holds it too.
        if all.get(&self.identity).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.identity);
        }
    }
}

impl Engine {
    /// The sandbox that an earlier, equal request made, if it is as good as a new one.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when there is one and it is not; [`Error::Unavailable`] when that is not known yet;
    /// [`Error::ResourceExhausted`] when there is none and there are as many others as there may be.
    pub(crate) async fn same_sandbox(&self, identity: &Identity, request: &str) -> Result<Option<String>> {
        while let Some(sandbox) = self.sandbox_of(identity) {
            // It may be going away.
            let _op = sandbox.op.lock().await;
            if self.sandbox(&sandbox.id).is_err() {
                continue;
            }
            if sandbox.is_awaited() {
                return Err(awaited(&sandbox));
            }
            let same = sandbox.look(|record| record.request == request);
            let what = match (same, sandbox.is_ready()) {
                (true, true) => return Ok(Some(sandbox.id.clone())),
                (true, false) => "and is not ready",
                (false, _) => "with another configuration",
            };
            let Identity { namespace, name, attempt, .. } = identity;
            let text = format!(
                "the sandbox of pod {namespace}/{name}, attempt {attempt}, exists already as {} {what}: remove it, or \
                 ask for another attempt",
                sandbox.id
            );
            return Err(Error::AlreadyExists(text));
        }
        if self.sandbox_count() >= MAX_SANDBOXES {
            let text = format!("there are {MAX_SANDBOXES} sandboxes, and there may not be more");
            return Err(Error::ResourceExhausted(text));
        }
        Ok(None)
    }

    fn sandbox_of(&self, identity: &Identity) -> Option<Arc<Sandbox>> {
        let is_it = |sandbox: &Arc<Sandbox>| {
            sandbox.look(|record| record.phase != SandboxPhase::Intent && identity.is(&record.config))
        };
        self.all_sandboxes().into_iter().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uid: &str) -> Identity {
        Identity { namespace: "n".to_owned(), name: "p".to_owned(), uid: uid.to_owned(), attempt: 0 }
    }

    #[tokio::test]
    async fn one_works_on_an_identity_and_others_on_others_and_nothing_is_kept() {
        let identities = Identities::default();
        let first = identities.claim(identity("a")).await;
        let other = identities.claim(identity("b")).await;
        let waiting = tokio::spawn({
            let identities = identities.clone();
            async move { drop(identities.claim(identity("a")).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(other);
        assert!(identities.all().is_empty());
    }

    #[tokio::test]
    async fn who_stops_waiting_blocks_nobody() {
        let identities = Identities::default();
        let first = identities.claim(identity("a")).await;
        let waiting = tokio::spawn({
            let identities = identities.clone();
            async move { drop(identities.claim(identity("a")).await) }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(first);
        drop(identities.claim(identity("a")).await);
        assert!(identities.all().is_empty());
    }
}
