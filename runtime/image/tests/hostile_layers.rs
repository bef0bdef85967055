//! Layers that want out, lie, or are too much, one row each; runs as root. A refused layer leaves the store as it was; what
//! is odd but allowed does no harm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use pintle_image::Error;
use support::raw_tar::{RawTar, new_header};
use support::{Compression, Layout, TestStore, tar};
use tar::EntryType;

type Layer = (Vec<u8>, Compression);

/// What is tried, with the layer, and what the error says.
type Row = (&'static str, RawTar, &'static str);

fn raw() -> RawTar {
    RawTar::default()
}

fn archive(name: &str, layers: &[Layer]) -> Vec<u8> {
    let mut layout = Layout::new();
    layout.image(name, layers, None);
    layout.archive()
}

/// A store with one good image in it.
fn store() -> TestStore {
    let test = TestStore::new();
    let good = (tar(&[("bin", None), ("bin/sh", Some("shell"))]), Compression::Gzip);
    test.import(&archive("good:1", &[good])).unwrap();
    test
}

/// Imports what must be refused, beside the good image.
fn assert_refused(test: &TestStore, what: &str, archive: &[u8], reason: &str) {
    let before = test.listing();
    let error = match test.import(archive) {
        Err(error @ (Error::Corrupt { .. } | Error::TooLarge { .. } | Error::Unsupported { .. })) => error,
        other => panic!("{what}: {other:?}"),
    };
    let text = error.to_string();
    assert!(text.contains("layer") && text.contains(reason), "{what}: {text}");
    assert!(test.listing() == before, "{what}: the store has changed");
}

fn assert_all_refused(rows: Vec<Row>) {
    let test = store();
    for (what, layer, reason) in rows {
        assert_refused(&test, what, &archive("bad:1", &[(layer.bytes(), Compression::None)]), reason);
    }
    assert_good_image_works(&test);
}

fn assert_good_image_works(test: &TestStore) {
    test.store.create_snapshot("good", "good:1").unwrap();
    let rootfs = test.store.mount_snapshot("good").unwrap();
    assert_eq!(std::fs::read_to_string(rootfs.join("bin/sh")).unwrap(), "shell");
    test.store.remove_snapshot("good").unwrap();
}

#[test]
fn layers_that_lead_out_of_the_image_are_refused() {
    assert_all_refused(vec![
        ("dot dot", raw().file("../out", "x"), "'..'"),
        ("dot dot further in", raw().dir("a").file("a/../../out", "x"), "'..'"),
        ("dot dot in an absolute path", raw().file("/../out", "x"), "'..'"),
        ("dot dot as a directory", raw().dir(".."), "'..'"),
        ("dot dot at the end", raw().dir("a/.."), "'..'"),
        ("dot dot in a long name", raw().pax("path", b"a/../../out").file("a", "x"), "'..'"),
        (
            "dot dot in a GNU long name",
            raw().extended(EntryType::GNULongName, b"../out\0").file("a", "x"),
            "'..'",
        ),
        ("through a link to nowhere", raw().symlink("l", "/no/such").file("l/x", "x"), "\"l"),
        ("through a link to itself", raw().symlink("l", "l").file("l/x", "x"), "\"l"),
        ("through a file", raw().file("f", "x").file("f/x", "x"), "\"f"),
        ("a hard link out", raw().hardlink("a", "../../../etc/passwd"), "'..'"),
        ("a hard link to the host's file", raw().hardlink("a", "/etc/passwd"), "hard link"),
        ("a hard link through a link", raw().symlink("e", "/etc").hardlink("a", "e/passwd"), "hard link"),
        (
            "a hard link through a climbing link",
            raw().symlink("u", "../../..").hardlink("a", "u/etc/passwd"),
            "hard",
        ),
        ("a hard link to a later entry", raw().hardlink("a", "b").file("b", "x"), "hard link"),
        ("a hard link to a directory", raw().dir("d").hardlink("a", "d"), "directory"),
        ("a hard link to the root", raw().hardlink("a", "."), "the root"),
        ("a hard link to itself", raw().hardlink("a", "a"), "hard link"),
        ("a hard link to nothing", raw().hardlink("a", ""), "the root"),
        ("a hard link to a whiteout", raw().file(".wh.b", "").hardlink("a", "b"), "whiteout"),
        ("a hard link to a whiteout's name", raw().file(".wh.b", "").hardlink("a", ".wh.b"), "hard link"),
        ("a file as the root", raw().file(".", "x"), "root"),
        ("a link as the root", raw().symlink(".", "/etc"), "root"),
    ]);
}

#[test]
fn whiteouts_that_are_none_are_refused() {
    assert_all_refused(vec![
        ("of dot dot", raw().file(".wh...", ""), "whiteout"),
        ("of dot", raw().file("a/.wh..", ""), "whiteout"),
        ("of nothing", raw().file("a/.wh.", ""), "whiteout"),
        ("outside", raw().file("../.wh.etc", ""), "'..'"),
        ("outside by a detour", raw().file("a/../../.wh.etc", ""), "'..'"),
        ("as a directory", raw().dir(".wh.etc"), "whiteout"),
        ("as a link", raw().symlink(".wh.etc", "/etc"), "whiteout"),
        ("as a device", raw().device(EntryType::Char, ".wh.etc", (1, 3)), "whiteout"),
        ("with something in it", raw().file(".wh.etc/passwd", "x"), "whiteout"),
        ("opaque as a directory", raw().dir("a/.wh..wh..opq"), "whiteout"),
        ("opaque as a link", raw().symlink("a/.wh..wh..opq", "/"), "whiteout"),
        ("overlayfs' own", raw().device(EntryType::Char, "etc", (0, 0)), "0:0"),
    ]);
}

#[test]
fn malformed_and_boundless_entries_are_refused() {
    let long = "d/".repeat(10_000);
    let deep = "d/".repeat(1500);
    let attributes = (0..65).fold(raw(), |tar, i| tar.pax(&format!("SCHILY.xattr.user.a{i}"), b"x"));
    let headers = (0..5).fold(raw(), |tar, _| tar.pax("comment", &[b'x'; 250_000]));
    let mut wrong_sum = raw().file("a", "x");
    wrong_sum.0[0] ^= 1;
    let mut binary = [0xff; 12];
    binary[0] = 0x80;
    assert_all_refused(vec![
        ("10,000 levels", raw().pax("path", long.as_bytes()).file("a", "x"), "bytes"),
        ("1,500 levels", raw().pax("path", deep.as_bytes()).file("a", "x"), "components"),
        ("a long component", raw().pax("path", &[b'n'; 300]).file("a", "x"), "255"),
        ("a long link target", raw().pax("linkpath", &[b'n'; 5000]).symlink("a", "b"), "4095"),
        ("a zero byte in a name", raw().pax("path", b"a\0b").file("a", "x"), "zero byte"),
        ("a zero byte in a link", raw().pax("linkpath", b"a\0b").symlink("a", "b"), "zero byte"),
        ("a link to nothing", raw().symlink("a", ""), "target"),
        ("a wrong checksum", wrong_sum, "checksum"),
        ("an unknown type", raw().entry(EntryType::new(b'Z'), "a", ""), "'Z'"),
        ("a sparse file", raw().entry(EntryType::GNUSparse, "a", ""), "sparse"),
        ("a sparse file by extended header", raw().pax("GNU.sparse.major", b"1").file("a", "x"), "sparse"),
        ("a size beyond 64 bits", raw().with_size_field("a", binary), "layer"),
        ("a negative size", raw().with_size_field("a", [0xff; 12]), "layer"),
        ("a size that is no number", raw().with_size_field("a", *b"0000000000z\0"), "layer"),
        ("a size longer than the layer", raw().with_size_field("a", *b"00007777777\0"), "middle"),
        ("the largest size", raw().pax("size", b"18446744073709551615").file("a", "x"), "layer"),
        (
            "a size that is too much",
            raw().pax("size", b"99999999999999999999").file("a", "x"),
            "not a number",
        ),
        ("a negative user", raw().pax("uid", b"-1").file("a", "x"), "uid"),
        ("a user beyond 32 bits", raw().pax("uid", b"4294967296").file("a", "x"), "out of range"),
        (
            "the user that means nobody's change",
            raw().pax("gid", b"4294967295").file("a", "x"),
            "out of range",
        ),
        ("a time that is none", raw().pax("mtime", b"yesterday").file("a", "x"), "time"),
        ("65 attributes", attributes.file("a", "x"), "64"),
        ("a huge attribute", raw().pax("SCHILY.xattr.user.a", &[b'x'; 100_000]).file("a", "x"), "too large"),
        ("an attribute without a name", raw().pax("SCHILY.xattr.user.", b"x").file("a", "x"), "attribute"),
        ("a huge extended header", raw().pax("comment", &[b'x'; 2 << 20]).file("a", "x"), "extended headers"),
        ("extended headers without end", headers.file("a", "x"), "extended headers"),
        ("a global header of 2 MiB", raw().extended(EntryType::XGlobalHeader, &[b'x'; 2 << 20]), "extended"),
        ("a long name of 2 MiB", raw().extended(EntryType::GNULongName, &[b'n'; 2 << 20]), "extended"),
        (
            "a record that is longer than its header",
            raw().extended(EntryType::XHeader, b"99 path=x\n"),
            "malformed",
        ),
        ("a record of no length", raw().extended(EntryType::XHeader, b"0 path=x\n"), "malformed"),
        ("a record without a value", raw().extended(EntryType::XHeader, b"9 pathxx\n"), "malformed"),
    ]);
}

#[test]
fn layers_that_are_cut_off_or_damaged_are_refused() {
    let plain = raw().dir("d").file("d/f", &"text ".repeat(5000)).bytes();
    let cut = |bytes: &[u8], end: usize| bytes[..end].to_vec();
    let gzip = Layout::compress(&plain, Compression::Gzip).0;
    let zstd = Layout::compress(&plain, Compression::Zstd).0;
    let mut wrong_sum = gzip.clone();
    let end = wrong_sum.len();
    wrong_sum[end - 6] ^= 1;
    let garbage = [&gzip[..], b"garbage after the end"].concat();
    // A frame that asks for a window of 2 GiB.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[0; 64]].concat();
    let rows = [
        ("tar in a header", cut(&plain, 700)),
        ("tar in a body", cut(&plain, 3000)),
        ("gzip after its head", cut(&gzip, 10)),
        ("gzip in the middle", cut(&gzip, gzip.len() / 2)),
        ("gzip before its checksum", cut(&gzip, gzip.len() - 8)),
        ("gzip with another checksum", wrong_sum),
        ("gzip with garbage behind it", garbage),
        ("zstd after its magic", cut(&zstd, 5)),
        ("zstd in the middle", cut(&zstd, zstd.len() / 2)),
        ("zstd with a window of 2 GiB", window),
        ("no tar at all", b"#!/bin/sh\n".repeat(100)),
        ("an xz file", [&b"\xfd7zXZ\0"[..], &[7; 600]].concat()),
    ];
    let test = store();
    for (what, bytes) in rows {
        let mut layout = Layout::new();
        layout.image("bad:1", &[(bytes, Compression::None)], Some(vec![support::digest(&plain)]));
        assert_refused(&test, what, &layout.archive(), "");
    }
    assert_good_image_works(&test);
}

/// Imports layers that are allowed and looks at what became of them.
fn assert_harmless(what: &str, layers: &[Layer], check: impl Fn(&Path)) {
    let test = store();
    let before = test.listing();
    test.import(&archive("odd:1", layers)).unwrap_or_else(|e| panic!("{what}: {e}"));
    test.store.create_snapshot("odd", "odd:1").unwrap();
    check(&test.store.mount_snapshot("odd").unwrap());
    for private in ["images", "layers", "snapshots"] {
        assert_eq!(std::fs::metadata(test.path(private)).unwrap().mode() & 0o777, 0o700, "{what}");
    }
    test.store.remove_snapshot("odd").unwrap();
    assert!(test.store.remove("odd:1").unwrap());
    assert!(test.listing() == before, "{what}: something is left");
}

fn one(layer: RawTar) -> [Layer; 1] {
    [(layer.bytes(), Compression::None)]
}

fn read(rootfs: &Path, path: &str) -> String {
    std::fs::read_to_string(rootfs.join(path)).unwrap()
}

#[test]
fn links_that_point_out_are_only_followed_inside_the_image() {
    let outside = tempfile::tempdir().unwrap();
    let host = outside.path().to_str().unwrap();
    let climbing = raw().symlink("up", "../../../../../..").file("up/inside", "x");
    assert_harmless("a climbing link", &one(climbing), |root| assert_eq!(read(root, "inside"), "x"));
    let absolute = raw().file("/etc/absolute", "x").symlink("e", "/etc").file("e/more", "y");
    assert_harmless("an absolute path", &one(absolute), |root| {
        assert_eq!((read(root, "etc/absolute"), read(root, "etc/more")), ("x".into(), "y".into()));
    });
    let swapped = raw().dir("d").file("d/a", "x").symlink("d", "/").file("d/b", "y");
    assert_harmless("a directory swapped for a link", &one(swapped), |root| assert_eq!(read(root, "b"), "y"));
    let file = raw().symlink("f", &format!("{host}/file")).file("f", "own");
    assert_harmless("a link replaced by a file", &one(file), |root| assert_eq!(read(root, "f"), "own"));
    let lower = raw().symlink("l", host).bytes();
    let upper = raw().file("l/file", "x").bytes();
    let layers = [(lower, Compression::None), (upper, Compression::None)];
    assert_harmless("a link of a lower layer", &layers, |root| assert_eq!(read(root, "l/file"), "x"));
    let hidden = raw().symlink("l", host).file("l/.wh.file", "");
    std::fs::write(outside.path().join("file"), "mine").unwrap();
    let refused = store().import(&archive("x:1", &one(hidden)));
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read_to_string(outside.path().join("file")).unwrap(), "mine");
}

#[test]
fn odd_entries_do_no_harm() {
    let again = raw().file("a", "1").file("a", "2").dir("a").symlink("a", "b").file("a", "3").file("b", "");
    assert_harmless("duplicate entries", &one(again), |root| {
        assert_eq!((read(root, "a"), read(root, "b")), ("3".into(), String::new()));
    });
    let names =
        raw().file("new\nline", "x").pax("mtime", b"-12345.5").pax("uid", b"3000000000").file("old", "y");
    assert_harmless("a line break, a time before 1970, a large user", &one(names), |root| {
        let old = std::fs::metadata(root.join("old")).unwrap();
        assert_eq!((old.mtime(), old.uid(), read(root, "new\nline")), (-12346, 3_000_000_000, "x".into()));
    });
    let opaque = [
        (raw().file("lower", "x").bytes(), Compression::None),
        one(raw().file(".wh..wh..opq", ""))[0].clone(),
    ];
    assert_harmless("an opaque root", &opaque, |_| {});
    let all = [(raw().file("a/b", "x").bytes(), Compression::None), one(raw().file(".wh.a", ""))[0].clone()];
    assert_harmless("a whiteout of everything", &all, |root| assert!(!root.join("a").exists()));
    let aufs =
        raw().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").file("a", "x");
    assert_harmless("what aufs left", &one(aufs), |root| {
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
    });
}

#[test]
fn devices_are_made_as_the_layer_says_and_stay_behind_private_directories() {
    let mut su = new_header(EntryType::Regular);
    su.set_mode(0o4755);
    let layer = raw()
        .device(EntryType::Char, "mem", (1, 1))
        .device(EntryType::Block, "disk", (8, 0))
        .entry(EntryType::Fifo, "pipe", "")
        .raw(&mut su, "su", b"binary");
    // As containerd and Docker do: an image may bring them, and the device cgroup decides who may open them.
    assert_harmless("devices and set-user-id", &one(layer), |root| {
        let meta = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
        assert!(meta("mem").file_type().is_char_device() && meta("disk").file_type().is_block_device());
        assert!(meta("pipe").file_type().is_fifo());
        assert_eq!(meta("su").mode() & 0o7777, 0o4755);
    });
}

#[test]
fn only_a_layers_own_attributes_are_kept() {
    let kept = ["user.note", "security.capability"];
    let dropped = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.any",
        "user.overlay.opaque",
        "security.selinux",
        "security.ima",
        "security.evm",
        "system.nonsense",
        "nonsense",
    ];
    // Version 2 of a file capability with cap_net_raw.
    let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = kept
        .iter()
        .chain(&dropped)
        .fold(raw(), |tar, name| tar.pax(&format!("SCHILY.xattr.{name}"), &capability));
    assert_harmless("attributes", &one(layer.file("a", "x")), |root| {
        let mut names = vec![0_u8; 4096];
        let n = rustix::fs::listxattr(root.join("a"), &mut names).unwrap();
        names.truncate(n);
        let found: Vec<_> =
            names.split(|b| *b == 0).map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        for name in kept {
            assert!(found.iter().any(|f| f == name), "{name} of {found:?}");
        }
        for name in dropped {
            assert!(!found.iter().any(|f| f == name), "{name} of {found:?}");
        }
    });
}
