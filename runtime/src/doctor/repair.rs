//! Puts one thing right, without an engine's help.
//!
//! In: a [`Remedy`]. Out: it is done, or why not. Each looks again, at the last moment, whether the thing is what it was found to be:
//! processes by a handle, interfaces by their mark, paths by where they lie, without following links.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags},
    mount::UnmountFlags,
    process::{Pid, PidfdFlags, Signal},
};

use super::{Remedy, found};
use crate::engine::{
    cgroups::Cgroups,
    error::{Error, Result},
    layout::Layout,
};

/// Does it.
///
/// # Errors
/// When it cannot be done, or is not for this function.
pub fn apply(layout: &Layout, pod_cidr: Option<&str>, remedy: &Remedy) -> Result<()> {
    let network = || found::network_config(layout, pod_cidr);
    let failed = |operation: &'static str| move |e| Error::network(operation)(e);
    match remedy {
        Remedy::None(why) => Err(Error::FailedPrecondition(why.clone())),
        Remedy::Unmount(point) => unmount(layout, point),
        Remedy::RemoveGroup(group) => Cgroups::discover()?.kill_and_remove(group),
        Remedy::Kill { pid, started } => kill(layout, *pid, *started),
        Remedy::DeleteLink(name) => {
            let deleted = pintle_cni::delete_link(&network()?, name);
            deleted.map(drop).map_err(failed("deleting an interface"))
        }
        Remedy::ReleaseLease { sandbox, ip } => {
            let dropped = pintle_cni::drop_lease(&network()?, sandbox, *ip);
            dropped.map(drop).map_err(failed("giving back an address"))
        }
        Remedy::ReplaceTable => match pintle_cni::replace_table(&network()?) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::FailedPrecondition(
                "the pods' addresses are not known here: restart the agent or runtime".to_owned(),
            )),
            Err(e) => Err(failed("replacing the packet filter's table")(e)),
        },
        Remedy::RemoveSnapshot(key) => discard(layout, &layout.root.join("snapshots").join(key)),
        Remedy::Discard(path) => discard(layout, path),
        Remedy::RemoveFile(path) => {
            inside(layout, path)?;
            fs::remove_file(path).map_err(Error::io("removing", path))
        }
        Remedy::RemoveDirectory(path) => remove_directory(layout, path),
        Remedy::Agent(_) => Err(Error::FailedPrecondition("it is an agent's".to_owned())),
    }
}

fn discard(layout: &Layout, path: &Path) -> Result<()> {
    pintle_image::discard(&layout.root, path).map_err(Error::image("removing from the image store"))
}

/// Takes away what is mounted there, as often as it is; never follows a link.
fn unmount(layout: &Layout, point: &Path) -> Result<()> {
    inside(layout, point)?;
    while is_mounted(point)? {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(point, flags).map_err(Error::io("unmounting", point))?;
    }
    Ok(())
}

fn is_mounted(point: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, point, flags, StatxFlags::TYPE) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(e) => Err(Error::io("looking at", point)(e)),
    }
}

/// Kills a supervisor, if the process of that number still is the one that was found.
fn kill(layout: &Layout, pid: i32, started: u64) -> Result<()> {
    let fail = Error::io("opening a handle on", PathBuf::from(format!("/proc/{pid}")));
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let handle = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        handle => handle.map_err(fail)?,
    };
    // The handle is held, so what is read now is about the process that it stands for.
    if found::supervisor(layout, pid).is_none_or(|found| found.started != started) {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(&handle, Signal::KILL) {
        Err(e) if e != rustix::io::Errno::SRCH => Err(Error::io("killing", format!("/proc/{pid}"))(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what lies among the records. What is mounted below is no part of it and goes first.
fn remove_directory(layout: &Layout, path: &Path) -> Result<()> {
    let folders = [layout.sandboxes(), layout.containers()];
    if !folders.iter().any(|folder| path.parent() == Some(folder)) || path.file_name().is_none() {
        return Err(not_ours(path));
    }
    for point in found::MountTable::read()?.below(path).keys().rev() {
        unmount(layout, point)?;
    }
    // It opens every directory relative to the one above, and removes links instead of following them.
    match fs::symlink_metadata(path).map_err(Error::io("looking at", path))?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
    .map_err(Error::io("removing", path))
}

/// A path below the instance's own directories, on which no link lies: only root can write there.
fn inside(layout: &Layout, path: &Path) -> Result<()> {
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    let folders = ["snapshots", "layers", "pause"].map(|name| layout.root.join(name));
    let below = |folder: &Path| path != folder && path.starts_with(folder);
    if !plain || !(below(&layout.state) || folders.iter().any(|folder| below(folder))) {
        return Err(not_ours(path));
    }
    let top = if below(&layout.state) { &layout.state } else { &layout.root };
    let parents = path.ancestors().skip(1).take_while(|parent| *parent != top);
    for parent in parents {
        let data = fs::symlink_metadata(parent).map_err(Error::io("looking at", parent))?;
        if !data.is_dir() {
            return Err(not_ours(path));
        }
    }
    Ok(())
}

fn not_ours(path: &Path) -> Error {
    Error::FailedPrecondition(format!("{} does not lie in the instance's directories", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn layout(dir: &Path) -> Layout {
        fs::create_dir_all(dir.join("state/sandboxes")).unwrap();
        fs::create_dir_all(dir.join("state/network/leases")).unwrap();
        Layout::new(&crate::EngineConfig::new(dir.join("root"), dir.join("state")))
    }

    #[test]
    fn files_are_removed_below_the_state_directory_only_and_not_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        fs::write(dir.path().join("precious"), "x").unwrap();
        symlink(dir.path(), layout.state.join("link")).unwrap();
        for path in [
            dir.path().join("precious"),
            layout.state.join("../precious"),
            layout.state.join("link/precious"),
            layout.state.clone(),
        ] {
            assert!(apply(&layout, None, &Remedy::RemoveFile(path.clone())).is_err(), "{}", path.display());
            assert!(apply(&layout, None, &Remedy::RemoveDirectory(path)).is_err());
        }
        assert!(dir.path().join("precious").exists());
        let lease = layout.network().join("leases/10.0.0.1");
        fs::write(&lease, "").unwrap();
        apply(&layout, None, &Remedy::RemoveFile(lease.clone())).unwrap();
        assert!(!lease.exists());
    }

    #[test]
    fn a_link_among_the_records_goes_and_what_it_leads_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let (outside, link) = (dir.path().join("outside"), layout.sandboxes().join("x"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, &link).unwrap();
        apply(&layout, None, &Remedy::RemoveDirectory(link.clone())).unwrap();
        assert!(!link.exists() && outside.join("precious").exists());
    }

    #[test]
    fn a_process_of_another_kind_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        kill(&layout, child.id().cast_signed(), 0).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
