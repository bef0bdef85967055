//! What the node needs once, before the first pod: bridge, forwarding, masquerade. Made on demand, remembered, and made
//! again when somebody deleted it.
//!
//! In: the configuration, the host ports in the leases. Out: the bridge's index and the pods' MTU. A missing masquerade does not stop pods: they reach
//! each other and the node, and the status says what is missing.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::bridge::{self, BridgeError};
use crate::cidr::Cidr;
use crate::error::{NetworkError, chain};
use crate::host::Host;
use crate::netlink::NetlinkError;
use crate::netns;
use crate::nft::masquerade::Masquerade;
use crate::pod_network::Status;
use crate::reaper::Estate;

/// Bridge, forwarding and masquerade of the node.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) bridge: String,
    pub(crate) cidr: Cidr,
    /// `None`: the uplink's.
    pub(crate) mtu: Option<u32>,
    /// The host's network namespace.
    pub(crate) netns: File,
    pub(crate) masquerade: Masquerade,
    pub(crate) state: Mutex<State>,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct State {
    ready: Option<Ready>,
    failure: Option<String>,
    no_masquerade: Option<String>,
}

/// What a pod's connection needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
}

impl Setup {
    /// Makes what is missing; quick when it was made before.
    pub(crate) fn ensure(&self, estate: &Estate) -> Result<Ready, NetworkError> {
        let mut state = self.state();
        if let Some(ready) = state.ready {
            return Ok(ready);
        }
        match self.make(&estate.host) {
            Ok(ready) => {
                let masqueraded = self.rebuild(estate);
                *state = State { ready: Some(ready), failure: None, no_masquerade: None };
                if let Err(error) = masqueraded {
                    let reason = chain(&error);
                    tracing::warn!(reason, "pods will not reach the outside: no masquerade");
                    state.no_masquerade = Some(reason);
                }
                self.tell_obstacles();
                Ok(ready)
            }
            Err(error) => {
                state.failure = Some(chain(&error));
                Err(error)
            }
        }
    }

    /// Makes everything again after the bridge `used` was found missing; another thread may have done it already.
    pub(crate) fn ensure_again(&self, estate: &Estate, used: Ready) -> Result<Ready, NetworkError> {
        let mut state = self.state();
        if state.ready == Some(used) {
            state.ready = None;
        }
        drop(state);
        self.ensure(estate)
    }

    /// Puts the masquerade table back if somebody flushed it; true if that was needed.
    pub(crate) fn restore_masquerade(&self, estate: &Estate) -> Result<bool, NetworkError> {
        let failed = |source| NetworkError::Masquerade { source };
        let mut state = self.state();
        if state.no_masquerade.is_none() && self.masquerade.is_present().map_err(failed)? {
            return Ok(false);
        }
        self.rebuild(estate).map_err(failed)?;
        state.no_masquerade = None;
        Ok(true)
    }

    /// Replaces the table by one with the host ports that the leases hold.
    pub(crate) fn rebuild(&self, estate: &Estate) -> Result<(), NetlinkError> {
        let mut table = self.masquerade.lock();
        let targets = estate.leases().targets();
        table.apply(&targets)
    }

    pub(crate) fn forget(&self) {
        *self.state() = State::default();
    }

    pub(crate) fn status(&self, host: &Host) -> Status {
        let state = self.state();
        if let Some(reason) = &state.failure {
            return Status::NotReady { reason: reason.clone() };
        }
        if state.ready.is_none() {
            return Status::Ready;
        }
        if let Some(reason) = &state.no_masquerade {
            return Status::Degraded { reason: format!("no masquerade: {reason}") };
        }
        match (host.link(&self.bridge), self.masquerade.is_present()) {
            (Ok(Some(_)), Ok(true)) => Status::Ready,
            (Ok(None), _) => Status::Degraded { reason: format!("bridge {} was deleted", self.bridge) },
            (_, Ok(false)) => {
                Status::Degraded { reason: "no masquerade: the nftables table was deleted".into() }
            }
            (Err(error), _) | (_, Err(error)) => Status::NotReady { reason: chain(&error) },
        }
    }

    fn make(&self, host: &Host) -> Result<Ready, NetworkError> {
        let family = self.cidr.network();
        let link = bridge::ensure(host, &self.bridge, self.cidr).map_err(NetworkError::Bridge)?;
        let forwarding: Result<(), BridgeError> =
            netns::run_in(self.netns.as_fd(), move || bridge::ensure_forwarding(family))
                .map_err(NetworkError::Netns)?;
        forwarding.map_err(NetworkError::Bridge)?;
        let mtu = match self.mtu {
            Some(mtu) => mtu,
            None => host.uplink_mtu(family).map_err(|source| NetworkError::ReadHost { source })?,
        };
        Ok(Ready { bridge: link.index, mtu })
    }

    fn tell_obstacles(&self) {
        match self.masquerade.obstacles() {
            Ok(chains) if chains.is_empty() => {}
            Ok(chains) => tracing::warn!(
                ?chains,
                bridge = self.bridge,
                "the host drops forwarded traffic by default: pods reach the outside only if these chains accept the bridge"
            ),
            Err(error) => tracing::debug!(error = chain(&error), "the host's chains cannot be listed"),
        }
    }

    /// A thread that panicked half-way left nothing that the next call does not make again.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
