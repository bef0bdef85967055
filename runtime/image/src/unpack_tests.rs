//! Layers that are odd or hostile, unpacked for real; runs as root.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;

/// Builds a tar by hand, without the checks of `tar::Builder`.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn raw(mut self, header: &mut Header, path: &str, body: &[u8]) -> Self {
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, kind: EntryType, path: &str, link: &str) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        self.raw(&mut header, path, b"")
    }

    fn file(self, path: &str, body: &str) -> Self {
        let mut header = Header::new_ustar();
        header.set_mode(0o4751);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_234_567_890);
        self.raw(&mut header, path, body.as_bytes())
    }

    fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target)
    }

    fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(self.0);
        builder.append_pax_extensions(records.iter().copied()).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        // `into_inner` ends the archive; go on instead.
        bytes.truncate(bytes.len() - 1024);
        Self(bytes)
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn unpack(self) -> (Result<Unpacked, Error>, Root) {
        let limits = LayerLimits { entries: 100, free_bytes: 1 << 20, ratio: 10, ..LayerLimits::default() };
        unpack_with(&self.bytes(), limits)
    }
}

fn unpack_with(bytes: &[u8], limits: LayerLimits) -> (Result<Unpacked, Error>, Root) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("layer/fs")).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let root = Root(dir);
    let mut plain = Vec::new();
    Decompressed::detect(bytes).unwrap().take(1 << 22).read_to_end(&mut plain).unwrap();
    let layer = LayerStream {
        compressed: bytes,
        compressed_size: bytes.len() as u64,
        diff_id: Digest::of(&plain),
        limits,
    };
    let result = unpack(layer, &root.path("")).map(|(unpacked, _)| unpacked);
    assert_eq!(std::fs::read_to_string(root.0.path().join("secret")).unwrap(), "secret");
    let beside: Vec<_> = std::fs::read_dir(root.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "something was made outside of the layer: {beside:?}");
    assert_eq!(std::fs::read_dir(root.0.path().join("layer")).unwrap().count(), 1);
    (result, root)
}

struct Root(TempDir);

impl Root {
    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("layer/fs").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let meta = std::fs::symlink_metadata(self.path(path)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 256];
        let n = rustix::fs::lgetxattr(self.path(path), name, &mut value).ok()?;
        value.truncate(n);
        Some(value)
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }
}

fn assert_corrupt(result: &Result<Unpacked, Error>, reason: &str) {
    match result {
        Err(error @ Error::Corrupt { .. }) => assert!(error.to_string().contains(reason), "{error}"),
        other => panic!("expected a corrupt layer ({reason}), got {other:?}"),
    }
}

#[test]
fn owners_modes_times_attributes_links_and_devices_are_kept() {
    let mut null = Header::new_ustar();
    null.set_entry_type(EntryType::Char);
    null.set_mode(0o666);
    null.set_uid(0);
    null.set_gid(0);
    null.set_device_major(1).unwrap();
    null.set_device_minor(3).unwrap();
    let (result, root) = Layer::default()
        .dir("./")
        .dir("bin/")
        .pax(&[("SCHILY.xattr.user.note", b"a\0b"), ("SCHILY.xattr.trusted.overlay.redirect", b"/x")])
        .file("bin/su", "binary")
        .hardlink("bin/sudo", "bin/su")
        .symlink("sh", "bin/su")
        .entry(EntryType::Fifo, "pipe", "")
        .raw(&mut null, "null", b"")
        .unpack();
    assert_eq!(result.unwrap().inodes, 6);
    let su = std::fs::metadata(root.path("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4751, 12, 34, 1_234_567_890));
    assert_eq!(su.ino(), std::fs::metadata(root.path("bin/sudo")).unwrap().ino());
    assert_eq!(root.xattr("bin/su", "user.note").unwrap(), b"a\0b");
    assert_eq!(root.xattr("bin/su", "trusted.overlay.redirect"), None);
    assert_eq!(std::fs::read_link(root.path("sh")).unwrap().as_os_str().as_bytes(), b"bin/su");
    assert_eq!(std::fs::metadata(root.path("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(std::fs::metadata(root.path("")).unwrap().mtime(), 1_000_000_000);
    let null = std::fs::metadata(root.path("null")).unwrap();
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(std::fs::metadata(root.path("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn whiteouts_and_opaque_directories_become_overlays_own() {
    let (result, root) = Layer::default()
        .file("a/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("b/kept", "x")
        .file(".wh..wh.plnk", "")
        .file(".wh.replaced", "")
        .dir("replaced")
        .file("replaced/new", "x")
        .file("later/new", "x")
        .file(".wh.later", "")
        .file(".wh.implied", "")
        .file("implied/new", "x")
        .file("own", "x")
        .file(".wh.own", "")
        .unpack();
    let unpacked = result.unwrap();
    assert!(root.is_whiteout("a/gone"));
    assert!(
        root.is_opaque("b")
            && root.is_opaque("replaced")
            && root.is_opaque("later")
            && root.is_opaque("implied")
    );
    assert!(!root.is_opaque("a"));
    assert_eq!((root.read("b/kept"), root.read("own")), ("x".into(), "x".into()));
    assert!(!root.path(".wh..wh.plnk").exists());
    assert_eq!(unpacked.implied, [&b""[..], b"a", b"b", b"later"]);
}

#[test]
fn a_file_through_an_absolute_symlink_stays_inside() {
    let (result, root) = Layer::default().dir("etc").symlink("link", "/etc").file("link/file", "x").unpack();
    result.unwrap();
    assert_eq!(root.read("etc/file"), "x");
    let (result, _) = Layer::default().symlink("link", "/").file("link/../secret", "x").unpack();
    assert_corrupt(&result, "'..'");
    let (result, root) = Layer::default().symlink("link", "../../..").file("link/secret", "x").unpack();
    result.unwrap();
    assert_eq!(root.read("secret"), "x");
    let (result, _) = Layer::default().symlink("link", "/missing/dir").file("link/file", "x").unpack();
    assert_corrupt(&result, "link");
}

#[test]
fn dot_dot_is_refused_everywhere() {
    for path in ["../secret", "a/../../secret", "/../secret", "..", "a/.."] {
        let (result, _) = Layer::default().file(path, "x").unpack();
        assert_corrupt(&result, "'..'");
    }
    let (result, _) = Layer::default().hardlink("a", "../../secret").unpack();
    assert_corrupt(&result, "'..'");
    for whiteout in [".wh...", ".wh..", ".wh."] {
        let (result, root) = Layer::default().file(&format!("a/{whiteout}"), "").unpack();
        assert_corrupt(&result, "whiteout");
        assert!(root.path("a").is_dir());
    }
    let (result, root) = Layer::default().file("/etc/absolute", "x").unpack();
    result.unwrap();
    assert_eq!(root.read("etc/absolute"), "x");
}

#[test]
fn hard_links_reach_nothing_outside() {
    let (result, _) = Layer::default().hardlink("a", "/etc/passwd").unpack();
    assert_corrupt(&result, "hard link");
    let (result, _) = Layer::default().symlink("etc", "/etc").hardlink("a", "etc/passwd").unpack();
    assert_corrupt(&result, "hard link");
    let (result, _) = Layer::default().symlink("up", "../..").hardlink("a", "up/secret").unpack();
    assert_corrupt(&result, "hard link");
    let (result, root) =
        Layer::default().symlink("s", "/etc/passwd").hardlink("a", "s").file("a", "x").unpack();
    result.unwrap();
    assert!(std::fs::symlink_metadata(root.path("s")).unwrap().is_symlink());
    assert_eq!(root.read("a"), "x");
    let (result, _) = Layer::default().dir("d").hardlink("a", "d").unpack();
    assert_corrupt(&result, "directory");
    let (result, root) = Layer::default().file("a", "x").hardlink("a", "a").unpack();
    result.unwrap();
    assert_eq!(root.read("a"), "x");
}

#[test]
fn a_later_entry_replaces_an_earlier_one_and_is_not_written_through_it() {
    let (result, root) = Layer::default()
        .dir("d")
        .file("d/inner", "x")
        .symlink("d", "/")
        .file("d/secret", "inside")
        .symlink("f", "../../secret")
        .file("f", "own")
        .symlink("g", "/d")
        .dir("g")
        .unpack();
    result.unwrap();
    assert_eq!((root.read("secret"), root.read("f")), ("inside".into(), "own".into()));
    assert!(std::fs::symlink_metadata(root.path("d")).unwrap().is_symlink());
    assert!(std::fs::symlink_metadata(root.path("f")).unwrap().is_file());
    assert!(std::fs::symlink_metadata(root.path("g")).unwrap().is_dir());
    // The mode of a link entry must not reach what the link leads to.
    let (result, root) = Layer::default().file("t", "x").symlink("l", "t").unpack();
    result.unwrap();
    assert_eq!(std::fs::metadata(root.path("t")).unwrap().mode() & 0o7777, 0o4751);
}

#[test]
fn a_file_as_parent_a_device_0_0_and_unknown_types_are_refused() {
    let (result, _) = Layer::default().file("a", "x").file("a/b", "x").unpack();
    assert_corrupt(&result, "a");
    let (result, _) = Layer::default().entry(EntryType::Char, "a", "").unpack();
    assert_corrupt(&result, "0:0");
    let (result, _) = Layer::default().entry(EntryType::GNUSparse, "a", "").unpack();
    assert_corrupt(&result, "sparse");
    let (result, _) = Layer::default().entry(EntryType::new(b'Z'), "a", "").unpack();
    assert_corrupt(&result, "not supported");
}

#[test]
fn a_decompression_bomb_too_many_entries_and_long_paths_are_refused() {
    let limits =
        LayerLimits { entries: 3, path: 20, free_bytes: 100_000, ratio: 10, ..LayerLimits::default() };
    let zeros = Layer::default().file("zeros", &"\0".repeat(2_000_000)).bytes();
    let (result, _) = unpack_with(&zstd::encode_all(&zeros[..], 3).unwrap(), limits);
    assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
    let many = (0..4).fold(Layer::default(), |layer, i| layer.file(&format!("f{i}"), "")).bytes();
    assert_corrupt(&unpack_with(&many, limits).0, "entries");
    let long = Layer::default().file("a/very/long/path/indeed", "").bytes();
    assert_corrupt(&unpack_with(&long, limits).0, "path");
}

#[test]
fn a_layer_with_another_diff_id_is_refused() {
    let bytes = Layer::default().file("a", "x").bytes();
    let dir = tempfile::tempdir().unwrap();
    let layer = LayerStream {
        compressed: &bytes[..],
        compressed_size: bytes.len() as u64,
        diff_id: Digest::of(b"something else"),
        limits: LayerLimits::default(),
    };
    let result = unpack(layer, dir.path()).map(|(unpacked, _)| unpacked);
    assert_corrupt(&result, "diff id");
}
