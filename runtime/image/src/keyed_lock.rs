//! Locks by name, for work that must happen once: fetching a blob, making a layer; and slots by name, for work of which
//! only so much may happen at once.
//!
//! In: a name. Out: a guard. Nobody who holds a blob's lock waits for a layer's, and a layer's holder waits only for layers
//! below it, so there are no cycles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

type Lock = tokio::sync::Mutex<()>;

#[derive(Debug, Default)]
pub(crate) struct KeyedLocks(Mutex<HashMap<String, Weak<Lock>>>);

impl KeyedLocks {
    /// Waits until nobody else holds the name.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.get(name).lock_owned().await
    }

    fn get(&self, name: &str) -> Arc<Lock> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// So many slots for each name.
#[derive(Debug)]
pub(crate) struct KeyedSlots {
    each: usize,
    taken: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl KeyedSlots {
    pub(crate) fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default() }
    }

    /// Waits until the name has a slot to spare.
    pub(crate) async fn take(&self, name: &str) -> Option<OwnedSemaphorePermit> {
        self.get(name).acquire_owned().await.ok()
    }

    fn get(&self, name: &str) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = taken.get(name).and_then(Weak::upgrade) {
            return slots;
        }
        taken.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(self.each));
        taken.insert(name.to_owned(), Arc::downgrade(&slots));
        slots
    }
}
