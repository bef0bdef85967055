//! hostPath: a path of the host, checked against (and for the `OrCreate` types made as) what the pod says it is.
//!
//! In: `HostPathVolumeSource`. Out: the path, or the kubelet's words for what is wrong with it. Links are followed, as
//! Kubernetes does: the path is the host administrator's.

use std::fs::{DirBuilder, FileType, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::VolumeError;

/// Checks the path and makes it if its type says so.
pub(super) fn ensure(source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&source.path);
    let found = std::fs::metadata(&path).ok().map(|meta| meta.file_type());
    match (source.type_.as_deref().unwrap_or(""), found) {
        // No check; what is missing becomes a directory, as with every runtime below the kubelet.
        ("" | "DirectoryOrCreate", None) => make_directory(&path)?,
        ("FileOrCreate", None) => make_file(&path)?,
        ("", Some(_)) => {}
        ("Directory" | "DirectoryOrCreate", found) => check(&path, found, FileType::is_dir, "a directory")?,
        ("File" | "FileOrCreate", found) => check(&path, found, |kind| !kind.is_dir(), "a file")?,
        ("Socket", found) => check(&path, found, FileType::is_socket, "a socket file")?,
        ("CharDevice", found) => check(&path, found, FileType::is_char_device, "a character device")?,
        ("BlockDevice", found) => check(&path, found, FileType::is_block_device, "a block device")?,
        (unknown, _) => return Err(VolumeError::HostPathUnknownType(unknown.to_owned())),
    }
    Ok(path)
}

fn check(
    path: &Path,
    found: Option<FileType>,
    is_wanted: impl Fn(&FileType) -> bool,
    wanted: &'static str,
) -> Result<(), VolumeError> {
    if found.is_some_and(|kind| is_wanted(&kind)) {
        return Ok(());
    }
    Err(VolumeError::HostPathType { path: path.display().to_string(), wanted })
}

fn make_directory(path: &Path) -> Result<(), VolumeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| VolumeError::Make { path: path.to_owned(), source })
}

/// The file only; a missing parent is an error, as the kubelet has it.
fn make_file(path: &Path) -> Result<(), VolumeError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .map(drop)
        .map_err(|source| VolumeError::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn source(path: &Path, kind: &str) -> HostPathVolumeSource {
        HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.to_owned()) }
    }

    fn refusal(path: &Path, kind: &str) -> String {
        ensure(&source(path, kind)).expect_err(kind).to_string()
    }

    #[test]
    fn each_type_accepts_its_own_kind_and_refuses_others_in_the_kubelets_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("file");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        let null = Path::new("/dev/null");

        for (path, kind) in [
            (dir.path(), "Directory"),
            (dir.path(), "DirectoryOrCreate"),
            (&file, "File"),
            (&file, "FileOrCreate"),
            (&socket, "Socket"),
            (null, "CharDevice"),
            (dir.path(), ""),
            (&file, ""),
        ] {
            assert_eq!(ensure(&source(path, kind)).expect(kind), path);
        }
        for (path, kind, wanted) in [
            (file.as_path(), "Directory", "a directory"),
            (&file, "DirectoryOrCreate", "a directory"),
            (dir.path(), "File", "a file"),
            (dir.path(), "FileOrCreate", "a file"),
            (&file, "Socket", "a socket file"),
            (&file, "CharDevice", "a character device"),
            (null, "BlockDevice", "a block device"),
        ] {
            let expected = format!("hostPath type check failed: {} is not {wanted}", path.display());
            assert_eq!(refusal(path, kind), expected);
        }
        let missing = dir.path().join("missing");
        for kind in ["Directory", "File", "Socket", "CharDevice", "BlockDevice"] {
            assert!(refusal(&missing, kind).starts_with("hostPath type check failed: "), "{kind}");
            assert!(!missing.exists());
        }
        assert_eq!(refusal(&file, "Folder"), "Folder is an invalid volume type");
    }

    #[test]
    fn a_block_device_is_accepted_where_there_is_one() {
        let Some(device) = std::fs::read_dir("/dev")
            .expect("/dev")
            .flatten()
            .find(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()))
        else {
            return;
        };
        assert_eq!(ensure(&source(&device.path(), "BlockDevice")).expect("accepted"), device.path());
    }

    #[test]
    fn what_is_missing_is_made_with_kubernetes_modes() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path| path.metadata().expect("made").permissions().mode() & 0o777;
        let (made_dir, made_file) = (dir.path().join("a/b"), dir.path().join("f"));
        ensure(&source(&made_dir, "DirectoryOrCreate")).expect("made");
        ensure(&source(&made_file, "FileOrCreate")).expect("made");
        assert_eq!((mode(&made_dir), mode(&made_file)), (0o755, 0o644));
        ensure(&source(&dir.path().join("no/parent"), "FileOrCreate")).expect_err("the parent is not made");
        ensure(&source(&dir.path().join("untyped"), "")).expect("made");
        assert!(dir.path().join("untyped").is_dir());
    }
}
