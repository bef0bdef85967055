//! The volumes that a container mounts.
//!
//! In: its `volumeMounts`, where each volume is on the host, its environment (for `subPathExpr`). Out: CRI's mounts. What
//! is below a volume by `subPath` is pinned: opened inside the volume, so that no link leads out of it, and bind-mounted
//! into the pod's directory, so that it cannot be exchanged before the engine mounts it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use pintle_cri_api::v1;
use pintle_runtime::resolve::open_below;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What can go wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The pod has no such volume.
    #[error("volumeMount {0:?} names a volume that the pod does not have")]
    UnknownVolume(String),
    /// The path leads out of the volume.
    #[error("subPath {0:?} must be a relative path without \"..\"")]
    BadSubPath(String),
    /// The path below the volume cannot be used.
    #[error("subPath {sub_path:?} of volume {volume:?}: {source}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The path.
        sub_path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The path's variables.
    #[error("subPathExpr")]
    Expression(#[source] pintle_core::env::EnvError),
}

/// What is known when a container's mounts are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Where each volume is on the host.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// Where this container's pinned sub-paths are kept.
    pub(crate) sub_paths: &'a Path,
}

/// The mounts, sub-paths pinned.
pub(crate) fn of_container(
    spec: &api::Container,
    places: Places<'_>,
    env: &[(String, String)],
) -> Result<Vec<v1::Mount>, MountError> {
    let mounts = spec.volume_mounts.iter().flatten().enumerate();
    mounts.map(|(index, mount)| of_mount(mount, index, places, env)).collect()
}

fn of_mount(
    mount: &api::VolumeMount,
    index: usize,
    places: Places<'_>,
    env: &[(String, String)],
) -> Result<v1::Mount, MountError> {
    let volume =
        places.volumes.get(&mount.name).ok_or_else(|| MountError::UnknownVolume(mount.name.clone()))?;
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (_, Some(expr)) if !expr.is_empty() => pintle_core::env::expand_all(std::slice::from_ref(expr), env)
            .map_err(MountError::Expression)?
            .concat(),
        (Some(path), _) => path.clone(),
        (None, _) => String::new(),
    };
    let host_path = if sub_path.is_empty() {
        volume.clone()
    } else {
        pin(volume, &sub_path, &places.sub_paths.join(index.to_string())).map_err(|e| match e {
            None => MountError::BadSubPath(sub_path.clone()),
            Some(source) => MountError::SubPath {
                volume: mount.name.clone(),
                sub_path: sub_path.clone(),
                source: source.into(),
            },
        })?
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        Some(_) | None => v1::MountPropagation::PropagationPrivate,
    };
    Ok(v1::Mount {
        container_path: mount.mount_path.clone(),
        host_path: host_path.display().to_string(),
        readonly: mount.read_only.unwrap_or(false),
        recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: propagation.into(),
        ..Default::default()
    })
}

/// Mounts what is at a path below a volume where nothing can exchange it. `Err(None)`: the path is none that may be.
fn pin(volume: &Path, sub_path: &str, at: &Path) -> Result<PathBuf, Option<Errno>> {
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(None);
    }
    let found = open_inside(volume, sub_path).map_err(Some)?;
    let is_dir = FileType::from_raw_mode(rustix::fs::fstat(&found).map_err(Some)?.st_mode).is_dir();
    make_mount_point(at, is_dir).map_err(Some)?;
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(source, at).map_err(Some)?;
    Ok(at.to_owned())
}

/// Opens what is at the path; directories that are missing are made.
fn open_inside(volume: &Path, sub_path: &str) -> Result<OwnedFd, Errno> {
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, path | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match open_below(&root, sub_path, path, resolve) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mut so_far = String::new();
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let parent = open_below(&root, format!("./{so_far}").as_str(), path, resolve)?;
        match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        so_far.push_str(part);
        so_far.push('/');
    }
    open_below(&root, sub_path, path, resolve)
}

/// A place for the mount, with what an earlier incarnation mounted there taken away.
fn make_mount_point(at: &Path, is_dir: bool) -> Result<(), Errno> {
    let os = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    loop {
        match rustix::mount::unmount(
            at,
            rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW,
        ) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(e),
        }
    }
    let old = at.symlink_metadata().ok();
    match old {
        Some(meta) if meta.is_dir() == is_dir => return Ok(()),
        Some(meta) if meta.is_dir() => std::fs::remove_dir(at).map_err(os)?,
        Some(_) => std::fs::remove_file(at).map_err(os)?,
        None => {}
    }
    if is_dir {
        return std::fs::create_dir_all(at).map_err(os);
    }
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent).map_err(os)?;
    }
    rustix::fs::openat(CWD, at, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        volumes: BTreeMap<String, PathBuf>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let volume = dir.path().join("volume");
            std::fs::create_dir(&volume).expect("mkdir");
            Self { volumes: BTreeMap::from([("v".to_owned(), volume)]), dir }
        }

        fn mounts(&self, mount: &str) -> Result<Vec<v1::Mount>, MountError> {
            let spec: api::Container =
                serde_json::from_str(&format!(r#"{{"name":"a","volumeMounts":[{mount}]}}"#))
                    .expect("a container");
            let sub_paths = self.dir.path().join("sub");
            let places = Places { volumes: &self.volumes, sub_paths: &sub_paths };
            of_container(&spec, places, &[("WHO".into(), "me".into())])
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            crate::volumes::remove_dir(&self.dir.path().join("sub")).expect("unmounted");
        }
    }

    #[test]
    fn a_mount_says_where_the_volume_is_and_how_it_is_mounted() {
        let f = Fixture::new();
        let mounts = f
            .mounts(r#"{"name":"v","mountPath":"/m","readOnly":true,"mountPropagation":"HostToContainer"}"#)
            .expect("mounts");
        assert_eq!(mounts[0].host_path, f.volumes["v"].display().to_string());
        assert!(mounts[0].readonly);
        assert_eq!(mounts[0].propagation, v1::MountPropagation::PropagationHostToContainer as i32);
        assert!(matches!(f.mounts(r#"{"name":"w","mountPath":"/m"}"#), Err(MountError::UnknownVolume(_))));
    }

    #[test]
    fn a_sub_path_is_made_and_pinned_and_may_be_named_by_the_environment() {
        let f = Fixture::new();
        let mount = r#"{"name":"v","mountPath":"/m","subPathExpr":"logs/$(WHO)"}"#;
        for _ in 0..2 {
            let mounts = f.mounts(mount).expect("mounts");
            std::fs::write(f.volumes["v"].join("logs/me/file"), "x").expect("made in the volume");
            assert!(Path::new(&mounts[0].host_path).join("file").exists(), "shows the volume");
        }
    }

    #[test]
    fn a_file_may_be_a_sub_path() {
        let f = Fixture::new();
        std::fs::write(f.volumes["v"].join("conf"), "x").expect("a file");
        let mounts = f.mounts(r#"{"name":"v","mountPath":"/m","subPath":"conf"}"#).expect("mounts");
        assert_eq!(std::fs::read_to_string(&mounts[0].host_path).expect("readable"), "x");
    }

    #[test]
    fn a_sub_path_never_leads_out_of_the_volume() {
        let f = Fixture::new();
        for bad in ["../up", "/abs", "a/../../b"] {
            let refused = f.mounts(&format!(r#"{{"name":"v","mountPath":"/m","subPath":"{bad}"}}"#));
            assert!(matches!(refused, Err(MountError::BadSubPath(_))), "{bad}");
        }
        std::fs::write(f.dir.path().join("secret"), "x").expect("outside");
        std::os::unix::fs::symlink(f.dir.path(), f.volumes["v"].join("link")).expect("link");
        assert!(matches!(
            f.mounts(r#"{"name":"v","mountPath":"/m","subPath":"link/secret"}"#),
            Err(MountError::SubPath { .. })
        ));
    }
}
