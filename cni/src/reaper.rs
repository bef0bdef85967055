//! Deletes the interfaces of detached pods in batches, and only then frees their addresses.
//!
//! In: interface names, each with the lease that waits for it. Out: interfaces gone, leases forgotten, and who waits for
//! an address told.
//! Deleting one interface keeps the caller waiting for RCU, deleting a hundred together hardly longer; and most go by
//! themselves a moment after their namespace's last process. So a detach only queues, and the reaper waits
//! a moment, deletes what is left in one go and says so:
//!
//! ```text
//!   idle ── condemn ──► gathering (WINDOW) ── delete ──► idle
//!                             ▲                  │ some stay
//!                             └── back-off ◄─────┘
//! ```
//!
//! What is queued when the process dies is on disk as a releasing lease and is queued again at the next start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use crate::host::Host;
use crate::lease::LeaseStore;
use crate::pod_link;

/// How long further interfaces may join a batch, and the kernel may delete them for us.
const WINDOW: Duration = Duration::from_millis(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);

/// What the reaper works on.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) host: Host,
    pub(crate) leases: Mutex<LeaseStore>,
    /// Interface group that means "to be deleted"; nobody else's on this host.
    pub(crate) group: u32,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Who is told of every address that is free again.
    pub(crate) freed: OnceLock<Listener>,
}

/// What is called when something has happened.
pub(crate) struct Listener(pub(crate) Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

#[derive(Debug, Default)]
struct Queue {
    condemned: BTreeMap<String, Option<IpAddr>>,
    closing: bool,
}

impl Estate {
    pub(crate) fn new(host: Host, leases: LeaseStore, group: u32) -> Self {
        let (leases, freed) = (Mutex::new(leases), OnceLock::new());
        Self { host, leases, group, queue: Mutex::default(), changed: Condvar::new(), freed }
    }

    /// A thread that panicked while it held the leases had either written one or not; both are sound.
    pub(crate) fn leases(&self) -> MutexGuard<'_, LeaseStore> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an interface for deletion; the lease of `ip` waits for it.
    pub(crate) fn condemn(&self, interface: &str, ip: Option<IpAddr>) {
        self.queue().condemned.insert(interface.to_owned(), ip);
        self.changed.notify_all();
    }

    /// Waits until no condemned interface fulfils `which`; false if that takes longer than `most`.
    pub(crate) fn wait_until_gone(&self, most: Duration, which: impl Fn(&str) -> bool) -> bool {
        let busy = |queue: &mut Queue| queue.condemned.keys().any(|name| which(name));
        let waited = self.changed.wait_timeout_while(self.queue(), most, busy);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !busy(&mut queue)
    }

    /// Deletes these interfaces now, frees the leases that wait for them, and returns those that stay.
    pub(crate) fn execute(
        &self,
        doomed: &BTreeMap<String, Option<IpAddr>>,
    ) -> Result<Vec<String>, ReapError> {
        let names: Vec<&str> = doomed.keys().map(String::as_str).collect();
        let left = pod_link::delete(&self.host, &names, self.group)
            .map_err(|error| ReapError::Delete(Box::new(error)))?;
        for (name, ip) in doomed.iter().filter(|(name, _)| !left.contains(&name.as_str())) {
            if let Some(ip) = ip {
                self.leases().forget(*ip, name).map_err(ReapError::Forget)?;
                if let Some(Listener(told)) = self.freed.get() {
                    told();
                }
            }
            let mut queue = self.queue();
            if queue.condemned.get(name) == Some(ip) {
                queue.condemned.remove(name);
            }
        }
        self.changed.notify_all();
        Ok(left.into_iter().map(str::to_owned).collect())
    }

    /// Forgets what is queued: everything was deleted by other means.
    pub(crate) fn clear(&self) {
        self.queue().condemned.clear();
        self.changed.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` once the network closes and nothing is left to do.
    fn next_batch(&self, window: Duration) -> Option<BTreeMap<String, Option<IpAddr>>> {
        let idle = |queue: &mut Queue| queue.condemned.is_empty() && !queue.closing;
        let queue = self.changed.wait_while(self.queue(), idle).unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(queue, window, |queue| !queue.closing);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!queue.condemned.is_empty())
            .then(|| queue.condemned.clone())
            .or((!queue.closing).then(BTreeMap::new))
    }

    fn is_closing(&self) -> bool {
        self.queue().closing
    }
}

/// Why interfaces could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    #[error("delete interfaces of detached pods")]
    Delete(#[source] Box<pod_link::LinkError>),
    #[error("free addresses of detached pods")]
    Forget(#[source] crate::lease::LeaseError),
}

/// The thread that deletes.
#[derive(Debug)]
pub(crate) struct Reaper {
    estate: Arc<Estate>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub(crate) fn spawn(estate: Arc<Estate>) -> Result<Self, io::Error> {
        let shared = Arc::clone(&estate);
        let thread = thread::Builder::new().name("network-reaper".into()).spawn(move || run(&shared))?;
        Ok(Self { estate, thread: Some(thread) })
    }
}

impl Drop for Reaper {
    /// Lets it finish what is queued, without waiting for more.
    fn drop(&mut self) {
        self.estate.queue().closing = true;
        self.estate.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network reaper panicked");
        }
    }
}

fn run(estate: &Estate) {
    let mut window = WINDOW;
    let mut back_off = BACK_OFF_FIRST;
    while let Some(doomed) = estate.next_batch(window) {
        let started = Instant::now();
        let done = match estate.execute(&doomed) {
            Ok(left) if left.is_empty() => true,
            Ok(left) => {
                tracing::warn!(interfaces = ?left, "interfaces of detached pods stay; trying again");
                false
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "deleting interfaces failed; trying again"
                );
                false
            }
        };
        if done {
            tracing::debug!(count = doomed.len(), took = ?started.elapsed(), "interfaces deleted");
            (window, back_off) = (WINDOW, BACK_OFF_FIRST);
        } else if estate.is_closing() {
            return;
        } else {
            window = back_off;
            back_off = (back_off * 2).min(BACK_OFF_MOST);
        }
    }
}
