//! Archives that others read, and damage that is found; as root, with skopeo and umoci.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use pintle_image::{Damage, Error, ImportOptions};
use support::{Compression, Layout, Registry, TestStore, digest, run, tar};

/// Two images with a common base, in every compression there is.
fn store() -> (TestStore, [pintle_image::Image; 2]) {
    let mut layout = Layout::new();
    let base = (
        tar(&[("tmp", None), ("etc", None), ("etc/base", Some("base")), ("etc/gone", Some("x"))]),
        Compression::Gzip,
    );
    let top = (
        tar(&[("etc/.wh.gone", Some("")), ("etc/top", Some("top")), ("tmp/sub/file", Some("f"))]),
        Compression::Zstd,
    );
    layout.image("reg.example/one:1", &[base.clone(), top], None);
    layout.image("reg.example/two:1", &[base, (tar(&[("plain", Some("p"))]), Compression::None)], None);
    let test = TestStore::new();
    test.import(&layout.archive()).unwrap();
    let image = |name| test.store.get(name).unwrap().unwrap();
    let images = [image("reg.example/one:1"), image("reg.example/two:1")];
    (test, images)
}

fn export(test: &TestStore, names: &[&str]) -> Vec<u8> {
    let (mut archive, names) = (Vec::new(), names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    test.store.export(&names, &mut archive).unwrap();
    archive
}

#[test]
fn what_is_exported_can_be_imported_again_and_is_the_same_each_time() {
    let (test, [one, two]) = store();
    test.store.tag(&one.id, "reg.example/also:2").unwrap();
    let archive = export(&test, &["reg.example/one:1", &two.id[7..19]]);
    assert_eq!(archive, export(&test, &[&two.id, "reg.example/one:1"]));
    let other = TestStore::new();
    other.import(&archive).unwrap();
    let found = other.store.list().unwrap();
    let of = |id: &str| found.iter().find(|image| image.id == id).unwrap();
    assert_eq!((found.len(), of(&one.id).repo_tags.clone()), (2, vec!["reg.example/one:1".to_owned()]));
    assert_eq!(
        (of(&two.id).repo_tags.clone(), of(&one.id).chain_ids.clone()),
        (two.repo_tags, one.chain_ids)
    );
    // By its id an image goes with all names it has.
    let all = TestStore::new();
    all.store.import(export(&test, &[&one.id]).as_slice(), ImportOptions::default()).unwrap();
    assert_eq!(all.store.list().unwrap()[0].repo_tags.len(), 2);
    let none = test.store.export(&["reg.example/none".to_owned()], Vec::new()).unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none:?}");
}

#[test]
fn skopeo_and_umoci_read_what_is_exported() {
    let (test, [one, _]) = store();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tar");
    std::fs::write(&file, export(&test, &["reg.example/one:1"])).unwrap();
    let file = file.display();
    for (source, target) in [
        (format!("oci-archive:{file}:reg.example/one:1"), "oci"),
        // What `docker load` reads: layers are compressed or not, as they come.
        (format!("docker-archive:{file}:reg.example/one:1"), "docker"),
    ] {
        let config = run(Command::new("skopeo").args(["inspect", "--config", &source]));
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["config"]["Cmd"][0], "/bin/true", "{source}");
        let layout = dir.path().join(target);
        let to = format!("oci:{}:x", layout.display());
        run(Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", &source, &to]));
    }
    let manifest = run(Command::new("skopeo").args([
        "inspect",
        "--raw",
        &format!("oci-archive:{file}:reg.example/one:1"),
    ]));
    assert!(one.repo_digests.is_empty() && manifest.contains(&one.id), "{manifest}");
    // umoci knows gzip only; the docker copy was uncompressed and compressed anew.
    let bundle = dir.path().join("bundle");
    run(Command::new("umoci")
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:x", dir.path().join("docker").display()))
        .arg(&bundle));
    let read = |path: &str| std::fs::read_to_string(bundle.join("rootfs").join(path));
    assert_eq!((read("etc/top").unwrap().as_str(), read("etc/gone").is_err()), ("top", true));
}

#[tokio::test]
async fn of_an_image_for_several_machines_this_machines_is_exported() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let ours = layout.image("ours:1", &[(tar(&[("ours", Some("o"))]), Compression::Gzip)], None);
    let theirs = layout.image("theirs:1", &[(tar(&[("theirs", Some("t"))]), Compression::Gzip)], None);
    layout.index("multi:1", &[("s390x", theirs), ("amd64", ours.clone())]);
    registry.push_with(&layout, "multi:1", &["--all"]);
    let name = registry.name("multi:1");
    let image = test.store.pull(&name, pintle_image::PullOptions::default()).await.unwrap();
    let archive = export(&test, &[&name]);
    test.store.remove(&image.id).unwrap();
    let again = test.import(&archive).unwrap().remove(0);
    assert_eq!((again.id, again.repo_tags), (image.id, vec![name.clone()]));
    assert!(test.store.get(ours["digest"].as_str().unwrap()).unwrap().is_some());
}

fn damages(test: &TestStore) -> Vec<Damage> {
    test.store.verify(None).unwrap().damages
}

#[test]
fn a_sound_store_is_found_sound_and_left_as_it_was() {
    let (test, images) = store();
    let before = test.listing();
    let verification = test.store.verify(None).unwrap();
    assert_eq!(verification.damages, []);
    // Two manifests, two configurations, three layers.
    assert_eq!((verification.images, verification.blobs, verification.layers), (2, 7, 3));
    assert_eq!(test.listing(), before);
    // A container's writes are not the image's.
    test.store.create_snapshot("c", &images[0].id).unwrap();
    let rootfs = test.store.mount_snapshot("c").unwrap();
    std::fs::write(rootfs.join("etc/base"), "changed in the container").unwrap();
    std::fs::remove_file(rootfs.join("etc/top")).unwrap();
    assert_eq!(damages(&test), []);
    test.store.remove_snapshot("c").unwrap();
}

#[test]
fn every_damage_of_blobs_and_layers_is_found_with_the_images_that_need_it() {
    let (test, [one, two]) = store();
    let both = ["reg.example/one:1".to_owned(), "reg.example/two:1".to_owned()];
    let base = test.path("layers").join(&one.chain_ids[0][7..]).join("fs/etc/base");
    let was = std::fs::metadata(&base).unwrap().modified().unwrap();
    std::fs::write(&base, "bad!").unwrap();
    std::fs::File::options().write(true).open(&base).unwrap().set_modified(was).unwrap();
    let found = damages(&test);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].what.as_str(), found[0].images.as_slice()),
        (format!("layer {}", one.chain_ids[0]).as_str(), &both[..])
    );
    assert_eq!(found[0].reason, "/etc/base has another content");
    std::fs::write(&base, "base").unwrap();
    std::fs::File::options().write(true).open(&base).unwrap().set_modified(was).unwrap();
    assert_eq!(damages(&test), []);

    let config = test.path("images/blobs/sha256").join(&two.id[7..]);
    let bytes = std::fs::read(&config).unwrap();
    let mut changed = bytes.clone();
    changed[10] ^= 1;
    std::fs::write(&config, &changed).unwrap();
    let found = damages(&test);
    assert!(found.iter().any(|d| d.what == "image reg.example/two:1"), "{found:?}");
    assert!(
        found.iter().any(|d| d.what == format!("blob {}", two.id) && d.reason.contains(&digest(&changed))),
        "{found:?}"
    );
    let mut archive = Vec::new();
    let error = test.store.export(std::slice::from_ref(&two.id), &mut archive).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    std::fs::write(&config, &bytes).unwrap();

    let mut layers: Vec<_> = test.names("images/blobs/sha256");
    layers.retain(|name| {
        std::fs::read(test.path("images/blobs/sha256").join(name)).unwrap()[..2] == [0x1f, 0x8b]
    });
    let path = test.path("images/blobs/sha256").join(&layers[0]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let found = damages(&test);
    assert_eq!(
        (found.len(), found[0].reason.as_str(), found[0].images.as_slice()),
        (1, "it is missing", &both[..])
    );
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(damages(&test), []);
    test.store.remove(&one.id).unwrap();
    test.store.remove(&two.id).unwrap();
    test.assert_empty();
}
