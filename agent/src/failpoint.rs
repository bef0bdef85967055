//! A place to crash on purpose, for the tests that kill the agent after each action.
//!
//! In: `PINTLE_FAILPOINT=after-action:<n>`. Out: the process aborts right after the n-th action it carried out. Only with
//! the feature `failpoints`; otherwise the calls are nothing.

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ACTIONS: AtomicU64 = AtomicU64::new(0);
    static AFTER: OnceLock<Option<u64>> = OnceLock::new();

    /// Counts an action that was carried out.
    pub(crate) fn after_action() {
        let done = ACTIONS.fetch_add(1, Ordering::SeqCst) + 1;
        let after = AFTER.get_or_init(|| {
            let spec = std::env::var("PINTLE_FAILPOINT").ok()?;
            spec.strip_prefix("after-action:")?.parse().ok()
        });
        if *after == Some(done) {
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::after_action;

/// Counts an action that was carried out.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn after_action() {}
