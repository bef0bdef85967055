//! Imports, names, leases, crashes and mounts of the store on the real kernel; runs as root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use pintle_image::{Error, Image, ImageStore, ImportOptions};
use support::{Compression, Layout, TestStore, digest, run, tar};

fn import(store: &ImageStore, bytes: &[u8]) -> Result<Vec<Image>, Error> {
    store.import(bytes, ImportOptions::default())
}

fn base() -> (Vec<u8>, Compression) {
    (tar(&[("bin", None), ("bin/sh", Some("shell"))]), Compression::None)
}

fn layer(name: &str) -> (Vec<u8>, Compression) {
    (tar(&[(name, Some(name))]), Compression::Gzip)
}

/// An archive with one image.
fn archive(name: &str, layers: &[(Vec<u8>, Compression)]) -> Vec<u8> {
    let mut layout = Layout::new();
    layout.image(name, layers, None);
    layout.archive()
}

#[test]
fn oci_and_docker_archives_are_imported_plain_and_compressed() {
    let mut layout = Layout::new();
    layout.image("app:1", &[base(), layer("a")], None);
    let dir = tempfile::tempdir().unwrap();
    let copy = |kind: &str| {
        let path = dir.path().join(kind);
        let target = format!("{kind}:{}:localhost/app:1", path.display());
        run(Command::new("skopeo").args(["copy", &layout.reference("app:1"), &target]));
        std::fs::read(path).unwrap()
    };
    let chain: Vec<_> =
        TestStore::new().store.import(&layout.archive()[..], ImportOptions::default()).unwrap();
    for kind in ["docker-archive", "oci-archive"] {
        let plain = copy(kind);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let test = TestStore::new();
            let images = import(&test.store, &Layout::compress(&plain, compression).0).unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].repo_tags, ["localhost/app:1"], "{kind}");
            assert_eq!(images[0].chain_ids, chain[0].chain_ids);
            assert_eq!(test.names("images/ingest"), Vec::<String>::new());
            let name = format!("oci:{}:localhost/app:1", test.path("images").display());
            let target = format!("dir:{}", test.path("copy").display());
            run(Command::new("skopeo").args(["copy", &name, &target]));
            assert!(test.store.remove("localhost/app:1").unwrap());
            test.assert_empty();
        }
    }
}

#[test]
fn an_archive_made_by_umoci_is_imported_under_a_given_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    run(Command::new("umoci").args(["init", "--layout", &at("layout")]));
    let image = format!("{}:latest", at("layout"));
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci").args(["unpack", "--image", &image, &at("bundle")]));
    std::fs::write(dir.path().join("bundle/rootfs/hello"), "hello").unwrap();
    run(Command::new("umoci").args(["repack", "--image", &image, &at("bundle")]));
    run(Command::new("umoci").args(["config", "--image", &image, "--config.cmd", "/hello"]));
    run(Command::new("tar").args(["-C", &at("layout"), "-cf", &at("archive.tar"), "."]));
    let bytes = std::fs::read(at("archive.tar")).unwrap();

    let test = TestStore::new();
    let nameless = import(&test.store, &bytes).unwrap();
    assert!(nameless[0].repo_tags.is_empty() && test.store.get(&nameless[0].id).unwrap().is_some());
    let opts = ImportOptions { tag: Some("hello".into()), ..ImportOptions::default() };
    let images = test.store.import(&bytes[..], opts).unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/library/hello:latest"]);
    assert_eq!(test.store.list().unwrap().len(), 1);
    test.store.create_snapshot("c", "hello").unwrap();
    let rootfs = test.store.mount_snapshot("c").unwrap();
    assert_eq!(std::fs::read_to_string(rootfs.join("hello")).unwrap(), "hello");
    test.store.remove_snapshot("c").unwrap();
}

#[test]
fn broken_archives_are_refused_and_leave_nothing() {
    let good = archive("a:1", &[base(), layer("a")]);
    let mut lying = Layout::new();
    lying.image("a:1", &[base()], Some(vec![digest(b"other")]));
    let mut lacking = Layout::new();
    lacking.image("a:1", &[base()], None);
    let blob = lacking.dir.path().join("blobs/sha256").join(&digest(&base().0)[7..]);
    std::fs::remove_file(blob).unwrap();
    let evil = tar(&[("index.json", Some("{\"manifests\": []}"))]);
    let cases = [
        ("truncated", good[..good.len() / 2].to_vec()),
        ("no archive", b"#!/bin/sh\n".repeat(200)),
        ("empty", Vec::new()),
        ("diff id", lying.archive()),
        ("missing blob", lacking.archive()),
        ("no image", evil),
        (
            "attack",
            archive("a:1", &[(tar(&[("a", Some("->/etc")), ("a/passwd", Some("x"))]), Compression::None)]),
        ),
    ];
    let test = TestStore::new();
    for (what, bytes) in cases {
        let error = import(&test.store, &bytes).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{what}: {error:?}");
        test.assert_empty();
    }
    let two = {
        let mut layout = Layout::new();
        layout.image("a:1", &[base()], None);
        layout.image("b:1", &[layer("b")], None);
        layout.archive()
    };
    let opts = ImportOptions { tag: Some("x".into()), ..ImportOptions::default() };
    assert!(matches!(test.store.import(&two[..], opts), Err(Error::InvalidName { .. })));
    test.assert_empty();
    assert_eq!(import(&test.store, &two).unwrap().len(), 2);
}

#[test]
fn r04_images_with_a_common_base_store_it_once_and_keep_it_while_one_is_left() {
    let test = TestStore::new();
    let one = import(&test.store, &archive("one:1", &[base(), layer("one")])).unwrap().remove(0);
    let two = import(&test.store, &archive("two:1", &[base(), layer("two")])).unwrap().remove(0);
    assert_eq!(one.chain_ids[0], two.chain_ids[0]);
    assert_eq!((test.names("layers").len(), test.names("images/blobs/sha256").len()), (3, 7));
    for (key, image) in [("a", &one), ("b", &two), ("c", &two)] {
        test.store.create_snapshot(key, &image.id).unwrap();
        test.store.mount_snapshot(key).unwrap();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let shared = format!("{}/fs", &one.chain_ids[0][7..]);
    let own = |line: &&str| line.contains(test.dir.path().to_str().unwrap()) && line.contains(&shared);
    assert_eq!(mounts.lines().filter(own).count(), 3, "{mounts}");
    std::fs::write(test.path("snapshots/b/rootfs/bin/sh"), "changed").unwrap();
    assert_eq!(std::fs::read_to_string(test.path("snapshots/c/rootfs/bin/sh")).unwrap(), "shell");
    for key in ["a", "b", "c"] {
        test.store.remove_snapshot(key).unwrap();
    }
    assert!(test.store.remove("one:1").unwrap());
    assert_eq!((test.names("layers").len(), test.names("images/blobs/sha256").len()), (2, 4));
    assert!(test.store.remove(&two.id[..10]).unwrap());
    test.assert_empty();
}

#[test]
fn snapshot_calls_may_be_repeated_and_hold_their_image() {
    let test = TestStore::new();
    let image = import(&test.store, &archive("a:1", &[base()])).unwrap().remove(0);
    let other = import(&test.store, &archive("b:1", &[layer("b")])).unwrap().remove(0);
    for _ in 0..2 {
        let snapshot = test.store.create_snapshot("key", "a:1").unwrap();
        assert_eq!(
            (snapshot.image_id, snapshot.rootfs),
            (image.id.clone(), test.path("snapshots/key/rootfs"))
        );
    }
    assert!(matches!(test.store.create_snapshot("key", &other.id), Err(Error::InUse { .. })));
    assert!(matches!(test.store.create_snapshot("../key", &image.id), Err(Error::InvalidName { .. })));
    assert!(matches!(test.store.create_snapshot("x", "missing:1"), Err(Error::NotFound { .. })));
    assert!(matches!(test.store.mount_snapshot("x"), Err(Error::NotFound { .. })));
    let first = test.store.mount_snapshot("key").unwrap();
    std::fs::write(first.join("written"), "x").unwrap();
    assert_eq!(test.store.mount_snapshot("key").unwrap(), first);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().filter(|l| l.contains(first.to_str().unwrap())).count(), 1);
    assert!(first.join("written").exists());
    match test.store.remove(&image.id) {
        Err(Error::InUse { by, .. }) => assert_eq!(by, ["key"]),
        other => panic!("{other:?}"),
    }
    for _ in 0..2 {
        test.store.remove_snapshot("key").unwrap();
    }
    assert_eq!(test.store.snapshots().unwrap(), Vec::<String>::new());
    assert!(test.store.remove(&image.id).unwrap() && test.store.remove(&other.id).unwrap());
    test.assert_empty();
}

#[test]
fn images_without_layers_and_with_127_layers_can_be_mounted() {
    let test = TestStore::new();
    let empty = import(&test.store, &archive("empty:1", &[])).unwrap().remove(0);
    test.store.create_snapshot("empty", &empty.id).unwrap();
    let rootfs = test.store.mount_snapshot("empty").unwrap();
    assert_eq!(std::fs::read_dir(&rootfs).unwrap().count(), 0);
    std::fs::write(rootfs.join("file"), "x").unwrap();
    let layers: Vec<_> = (0..127).map(|i| layer(&format!("file-{i}"))).collect();
    let many = import(&test.store, &archive("many:1", &layers)).unwrap().remove(0);
    test.store.create_snapshot("many", &many.id).unwrap();
    let rootfs = test.store.mount_snapshot("many").unwrap();
    assert_eq!(std::fs::read_dir(&rootfs).unwrap().count(), 127);
    test.store.remove_snapshot("empty").unwrap();
    test.store.remove_snapshot("many").unwrap();
    let (_, mut layout) = (test, Layout::new());
    layout.image("more:1", &vec![layer("x"); 128], None);
    assert!(matches!(import(&TestStore::new().store, &layout.archive()), Err(Error::TooLarge { .. })));
}

#[test]
fn the_root_directory_keeps_the_images_mode_and_owner() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1711);
    header.set_uid(7);
    header.set_gid(8);
    header.set_size(0);
    builder.append_data(&mut header, "./", std::io::empty()).unwrap();
    let root = builder.into_inner().unwrap();
    let test = TestStore::new();
    let image =
        import(&test.store, &archive("a:1", &[(root, Compression::None), layer("x")])).unwrap().remove(0);
    test.store.create_snapshot("a", &image.id).unwrap();
    let meta = std::fs::metadata(test.store.mount_snapshot("a").unwrap()).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (0o1711, 7, 8));
    test.store.remove_snapshot("a").unwrap();
}

#[test]
fn a_store_is_opened_once_and_comes_back_after_a_crash_without_debris() {
    let test = TestStore::new();
    let image = import(&test.store, &archive("a:1", &[base()])).unwrap().remove(0);
    test.store.create_snapshot("kept", &image.id).unwrap();
    test.store.mount_snapshot("kept").unwrap();
    assert!(matches!(ImageStore::open(test.dir.path()), Err(Error::Locked { .. })));
    let TestStore { dir, store } = &test;
    let (dir, before) = (dir.path().to_owned(), store.list().unwrap());
    // What a process that was killed may leave: an ingest, a layer, a snapshot half made, blobs without a name.
    std::fs::write(dir.join("images/ingest/7"), "half a blob").unwrap();
    std::fs::create_dir_all(dir.join("layers/.tmp-3/fs/etc")).unwrap();
    std::fs::create_dir_all(dir.join("snapshots/.tmp-1/upper")).unwrap();
    std::fs::create_dir_all(dir.join("snapshots/no-record/upper")).unwrap();
    std::fs::write(dir.join("images/blobs/sha256").join(&digest(b"orphan")[7..]), "orphan").unwrap();
    let chain = "0".repeat(64);
    std::fs::create_dir_all(dir.join(format!("layers/{chain}/fs"))).unwrap();

    let kept = test.reopen();
    assert_eq!(kept.store.list().unwrap()[0].id, before[0].id);
    assert_eq!(kept.store.snapshots().unwrap(), ["kept"]);
    assert_eq!((kept.names("images/ingest").len(), kept.names("layers").len()), (0, 1));
    assert_eq!(
        (kept.names("snapshots"), kept.names("images/blobs/sha256").len()),
        (vec!["kept".to_owned()], 3)
    );
    assert!(kept.path("snapshots/kept/rootfs/bin/sh").exists(), "a mounted snapshot was disturbed");
    assert!(matches!(kept.store.remove("a:1"), Err(Error::InUse { .. })));
    kept.store.remove_snapshot("kept").unwrap();

    // A layer that is gone is unpacked again from its blob; an image whose documents are gone is forgotten.
    std::fs::remove_dir_all(kept.path("layers").join(&image.chain_ids[0][7..])).unwrap();
    kept.store.create_snapshot("again", "a:1").unwrap();
    assert!(kept.store.mount_snapshot("again").unwrap().join("bin/sh").exists());
    kept.store.remove_snapshot("again").unwrap();
    std::fs::write(kept.path("images/blobs/sha256").join(&image.id[7..]), "{}").unwrap();
    kept.reopen().assert_empty();
}

#[test]
fn names_move_and_an_image_without_a_name_stays_findable_by_id() {
    let test = TestStore::new();
    let old = import(&test.store, &archive("app:1", &[base()])).unwrap().remove(0);
    let new = import(&test.store, &archive("app:1", &[layer("new")])).unwrap().remove(0);
    assert_eq!(test.store.get("app:1").unwrap().unwrap().id, new.id);
    assert!(test.store.get(&old.id).unwrap().unwrap().repo_tags.is_empty());
    let tagged = test.store.tag(&old.id, "Old:x");
    assert!(matches!(tagged, Err(Error::InvalidName { .. })));
    let tagged = test.store.tag(&old.id, "localhost:5000/old:x").unwrap();
    assert_eq!((tagged.id, tagged.repo_tags), (old.id.clone(), vec!["localhost:5000/old:x".to_owned()]));
    let tagged = test.store.tag("app:1", "app:2").unwrap();
    assert_eq!(tagged.repo_tags, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    assert!(test.store.get("nothing:1").unwrap().is_none());
    assert!(matches!(test.store.get("not a name"), Err(Error::InvalidName { .. })));
    assert!(test.store.remove("app:2").unwrap() && test.store.get("app:1").unwrap().is_none());
    assert!(test.store.remove(&old.id).unwrap());
    test.assert_empty();
}

#[test]
fn a_mount_inside_a_snapshot_survives_the_removal_of_the_snapshot() {
    let test = TestStore::new();
    let image = import(&test.store, &archive("a:1", &[base()])).unwrap().remove(0);
    test.store.create_snapshot("a", &image.id).unwrap();
    let inside = test.path("snapshots/a/upper/volume");
    std::fs::create_dir(&inside).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &inside, "tmpfs", none, None).unwrap();
    std::fs::write(inside.join("precious"), "x").unwrap();
    let error = test.store.remove_snapshot("a").unwrap_err();
    let Error::Mounted { path } = &error else { panic!("{error:?}") };
    assert!(path.join("precious").exists(), "{}", path.display());
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).unwrap();
    test.reopen().store.remove("a:1").unwrap();
}
