//! Pods whose users are not the node's.
//!
//! In: a sandbox's infra container, which holds the user namespace. Out: a container's root shown as that namespace maps it; and
//! whether this node can do that at all, found out by trying when somebody first asks.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use pintle_image::IdMap;
use pintle_seccomp::file;

use super::{
    Engine,
    error::{Error, Result},
    host,
    state::Container,
};
use crate::sys;

/// Since then overlayfs takes layers whose owners are mapped.
const OVERLAYS_SINCE: (u32, u32) = (5, 19);

/// What is known of the node.
#[derive(Debug, Default)]
pub(crate) struct Support {
    known: OnceLock<bool>,
}

impl Engine {
    /// Whether pods can have users of their own here.
    #[must_use]
    pub fn has_user_namespaces(&self) -> bool {
        *self.user_namespaces.known.get_or_init(|| {
            let new = file::version(&host::kernel_release()).is_some_and(|version| version >= OVERLAYS_SINCE);
            let try_it = |users: OwnedFd| {
                let map = |mount: BorrowedFd<'_>| sys::map_mount_ids(mount, users.as_fd());
                self.images.can_map(&map)
            };
            new && sys::users::new_user_namespace().is_ok_and(try_it)
        })
    }

    /// Checks that a pod of a handler can have users of its own.
    pub(crate) fn check_user_namespaces(&self, handler: &str) -> Result<()> {
        let reason = match (handler, self.has_user_namespaces()) {
            ("", true) => return Ok(()),
            ("", false) => "this node's kernel or file system cannot map the owners of files",
            _ => "a pod of an external runtime cannot have users of its own",
        };
        Err(Error::FailedPrecondition(format!("namespace_options.userns_options: {reason}")))
    }

    /// Shows a container's root as its pod's user namespace maps it, if it has one.
    pub(crate) fn map_rootfs(&self, container: &Container) -> Result<()> {
        let sandbox = container.sandbox.record();
        let Some(mappings) = &sandbox.config.users else { return Ok(()) };
        let path = format!("/proc/{}/ns/user", sandbox.infra_pid.unwrap_or_default());
        let users = File::open(&path).map_err(Error::io("opening", &path))?;
        let map = |mount: BorrowedFd<'_>| sys::map_mount_ids(mount, users.as_fd());
        let map = IdMap { root: mappings.root(), map: &map };
        let mapped = self.images.map_snapshot(&container.id, map);
        mapped.map(drop).map_err(Error::image("mapping the owners of the container's files"))
    }
}
