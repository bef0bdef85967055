//! Image volumes: an image's files as a read-only directory in a container.
//!
//! In: mounts that name an image. Out: a snapshot for each, mounted, and the same mounts with the directory to bind. The
//! snapshot is the lease on the image: while there is one, removing the image takes no layer away. It goes with the container.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use pintle_cri_api::v1::{ContainerConfig, Mount};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    Engine,
    error::{Error, Failures, Result},
    records::ContainerRecord,
};
use crate::resolve::open_below;

/// What parts a container's id and a volume's number in a snapshot's key.
const VOLUME: &str = ".v";

/// The container that a snapshot is for: its root, or a volume of it.
#[must_use]
pub fn container_of(key: &str) -> &str {
    key.split_once(VOLUME).map_or(key, |(id, _)| id)
}

fn key(container: &str, volume: usize) -> String {
    format!("{container}{VOLUME}{volume}")
}

impl Engine {
    /// The configuration with a directory on the node in the place of each image; nothing when it names none.
    pub(crate) fn mount_images(&self, id: &str, config: &ContainerConfig) -> Result<Option<ContainerConfig>> {
        if config.mounts.iter().all(|mount| image_of(mount).is_none()) {
            return Ok(None);
        }
        let mut config = config.clone();
        for (number, mount) in config.mounts.iter_mut().enumerate() {
            if let Some(image) = image_of(mount) {
                let source = self.mount_image(&key(id, number), image, &mount.image_sub_path)?;
                mount.host_path = source.to_string_lossy().into_owned();
                mount.image = None;
                mount.image_sub_path.clear();
                // Whatever the request says.
                mount.readonly = true;
            }
        }
        Ok(Some(config))
    }

    fn mount_image(&self, key: &str, image: &str, sub_path: &str) -> Result<PathBuf> {
        let failed = |what: &str| Error::image(format!("mounts.image: {what} {image:?}"));
        let found = self.images.get(image).map_err(failed("looking for image"))?;
        let found = found.ok_or_else(|| Error::NotFound { kind: "image", id: image.to_owned() })?;
        self.images.create_snapshot(key, &found.id).map_err(failed("making a snapshot of"))?;
        let root = self.images.mount_snapshot(key).map_err(failed("mounting"))?;
        if sub_path.is_empty() { Ok(root) } else { below(&root, sub_path) }
    }

    /// Gives back the images that a container has as volumes.
    pub(crate) fn unmount_images(&self, record: &ContainerRecord) -> Result<()> {
        let mut failures = Failures::default();
        for (number, _) in record.mounts.iter().enumerate().filter(|(_, mount)| mount.image.is_some()) {
            let removed = self.images.remove_snapshot(&key(&record.id, number));
            failures.note(removed.map_err(Error::image("removing the snapshot of an image volume")));
        }
        failures.into_result()
    }
}

fn image_of(mount: &Mount) -> Option<&str> {
    mount.image.as_ref().map(|image| image.image.as_str()).filter(|image| !image.is_empty())
}

/// A directory of the image. Links inside it are followed, but none out of it.
fn below(root: &Path, sub_path: &str) -> Result<PathBuf> {
    let bad = |reason: &str| Error::InvalidArgument(format!("mounts.image_sub_path: {sub_path:?} {reason}"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty()).map_err(Error::io("opening", root))?;
    let opened: std::result::Result<OwnedFd, Errno> =
        open_below(&top, sub_path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
    let opened = opened.map_err(|errno| match errno {
        Errno::NOENT => bad("is not in the image"),
        Errno::NOTDIR => bad("is no directory of the image"),
        Errno::XDEV | Errno::LOOP => bad("leads out of the image"),
        other => Error::io("opening", root.join(sub_path))(other),
    })?;
    let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
    fs::read_link(&link).map_err(Error::io("reading", link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volumes_snapshot_belongs_to_its_container() {
        let id = "5".repeat(64);
        assert_eq!(container_of(&key(&id, 12)), id);
        assert_eq!(container_of(&id), id);
    }

    #[test]
    fn a_sub_path_is_a_directory_inside_the_image_and_no_link_leads_out_of_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        for (link, target) in [("in", "a/b"), ("out", "/etc"), ("up", "../..")] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        assert_eq!(below(&root, "a/b").unwrap(), root.join("a/b"));
        assert_eq!(below(&root, "in").unwrap(), root.join("a/b"));
        for (path, reason) in
            [("out", "leads out"), ("up", "leads out"), ("none", "is not in"), ("file", "is no directory")]
        {
            assert!(below(&root, path).unwrap_err().to_string().contains(reason), "{path}");
        }
    }
}
