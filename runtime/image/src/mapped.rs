//! Mounts overlays whose files' owners are mapped.
//!
//! In: an overlay, the directory that holds all its parts, and somebody who maps the ids of a mount. Out: the overlay at its
//! target. overlayfs cannot be mapped itself; it shows what its parts show, and these can (Linux 5.19). All parts are
//! reached through one mapped mount of the directory that holds them. That mount is attached for a moment, because before
//! Linux 6.15 overlayfs takes no parts of one that is not; and that in a mount namespace of a thread of its own, so that
//! whenever this process is killed, nothing is left of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::overlay::Overlay;
use crate::{Error, IdMap};

/// What is mounted, and how.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Its parts are below `base`; its target is a directory.
    pub(crate) overlay: Overlay,
    pub(crate) base: PathBuf,
    /// An empty directory that is no part of what the overlay shows.
    pub(crate) place: PathBuf,
}

impl Mapped {
    /// Mounts it.
    pub(crate) fn mount(&self, map: IdMap<'_>) -> Result<(), Error> {
        let target = &self.overlay.target;
        let failed = |source| Error::io("mount a mapped overlay", target)(source);
        let mounted = std::thread::scope(|scope| scope.spawn(|| self.mount_apart(map)).join());
        let tree =
            mounted.unwrap_or_else(|_| Err(failed(io::Error::other("the mounting thread panicked"))))?;
        attach(&tree, target).map_err(failed)
    }

    /// In a mount namespace that ends with the calling thread: the overlay, to be attached elsewhere.
    fn mount_apart(&self, map: IdMap<'_>) -> Result<OwnedFd, Error> {
        let target = &self.overlay.target;
        let failed = |source: io::Error| Error::io("map the owners of files in", &self.base)(source);
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| failed(errno.into()))?;
        let none = None::<&str>;
        nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|errno| failed(errno.into()))?;
        let base = clone(&self.base).map_err(failed)?;
        (map.map)(base.as_fd()).map_err(failed)?;
        attach(&base, target).map_err(failed)?;
        own_files_as(map.root).map_err(failed)?;
        self.through(target)?.mount()?;
        clone(&self.place).map_err(failed)
    }

    /// The overlay with its parts seen through the mapped mount.
    fn through(&self, mapped: &Path) -> Result<Overlay, Error> {
        let part = |path: &PathBuf| {
            let below = path.strip_prefix(&self.base);
            below.map(|below| mapped.join(below)).map_err(|_| {
                Error::io("map the owners of files in", path)(io::Error::other("it is elsewhere"))
            })
        };
        Ok(Overlay {
            lower: self.overlay.lower.iter().map(part).collect::<Result<_, _>>()?,
            upper: part(&self.overlay.upper)?,
            work: part(&self.overlay.work)?,
            target: self.place.clone(),
        })
    }
}

/// What overlayfs makes by itself belongs to who mounts it, and has to be somebody's who is mapped. The calling thread keeps its
/// capabilities, of which a change of the owner takes some.
fn own_files_as((user, group): (u32, u32)) -> io::Result<()> {
    let had = rustix::thread::capabilities(None)?;
    nix::unistd::setfsgid(Gid::from_raw(group));
    nix::unistd::setfsuid(Uid::from_raw(user));
    Ok(rustix::thread::set_capabilities(None, had)?)
}

/// A directory as a mount of its own that is nowhere yet.
pub(crate) fn clone(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn attach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    Ok(move_mount(tree.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
