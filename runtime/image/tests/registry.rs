//! Pulls from Debian's docker-registry on loopback ports; runs as root. Rows R04, R07 and R10 at the level of the store.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};

use pintle_image::{Auth, Error, ImageStore, Progress, PullOptions};
use support::{Compression, Layout, Registry, RegistryOptions, TestStore, digest, run, tar};

async fn pull(store: &ImageStore, name: &str) -> Result<pintle_image::Image, Error> {
    store.pull(name, PullOptions::default()).await
}

fn three_layers() -> Vec<(Vec<u8>, Compression)> {
    vec![
        (
            tar(&[("tmp", None), ("etc", None), ("etc/gone", Some("x")), ("etc/base", Some("base"))]),
            Compression::Gzip,
        ),
        (tar(&[("etc/.wh.gone", Some("")), ("etc/zstd", Some("z"))]), Compression::Zstd),
        (tar(&[("tmp/plain", Some("p")), ("link", Some("->etc/base"))]), Compression::None),
    ]
}

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(String, u64)>>);

impl Progress for Recorder {
    fn started(&self, digest: &str, total: u64) {
        self.0.lock().unwrap().push((format!("started {digest}"), total));
    }
    fn advanced(&self, digest: &str, done: u64) {
        self.0.lock().unwrap().push((format!("advanced {digest}"), done));
    }
    fn finished(&self, digest: &str) {
        self.0.lock().unwrap().push((format!("finished {digest}"), 0));
    }
}

#[tokio::test]
async fn r10_an_image_is_pulled_by_tag_and_by_digest_and_skopeo_reads_the_store() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let manifest = layout.image("a/b:1", &three_layers(), None);
    registry.push(&layout, "a/b:1");
    let recorder = Arc::new(Recorder::default());
    let opts = PullOptions { progress: Some(recorder.clone()), ..PullOptions::default() };
    let image = test.store.pull(&registry.name("a/b:1"), opts).await.unwrap();
    let by_digest = registry.name(&format!("a/b@{}", manifest["digest"].as_str().unwrap()));
    assert_eq!(image.repo_tags, [registry.name("a/b:1")]);
    assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/true"]);

    let events = recorder.0.lock().unwrap().clone();
    for layer in ["started", "advanced", "finished"] {
        let of_kind: Vec<_> = events.iter().filter(|(e, _)| e.starts_with(layer)).collect();
        assert!(of_kind.len() >= 3, "{events:?}");
    }
    let index = run(std::process::Command::new("skopeo").arg("inspect").arg(format!(
        "oci:{}:{}",
        test.path("images").display(),
        registry.name("a/b:1")
    )));
    assert!(index.contains(manifest["digest"].as_str().unwrap()), "{index}");

    let fetched = registry.requests("/blobs/");
    let again = pull(&test.store, &by_digest).await.unwrap();
    assert_eq!((again.id, again.repo_tags), (image.id.clone(), image.repo_tags.clone()));
    assert_eq!(registry.requests("/blobs/"), fetched, "blobs were fetched twice");
    for name in [&image.id, &image.id[7..12], &by_digest, &registry.name("a/b:1"), &registry.name("a/b:1")] {
        assert_eq!(test.store.get(name).unwrap().unwrap().id, image.id, "{name}");
    }

    test.store.create_snapshot("c1", &image.id).unwrap();
    let rootfs = test.store.mount_snapshot("c1").unwrap();
    assert!(!rootfs.join("etc/gone").exists());
    let read = |path: &str| std::fs::read_to_string(rootfs.join(path)).unwrap();
    assert_eq!([read("etc/zstd"), read("tmp/plain"), read("link")], ["z", "p", "base"]);
    // The third layer has a file in /tmp without saying what /tmp is.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(rootfs.join("tmp")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o7777, 0o1777);
    test.store.remove_snapshot("c1").unwrap();
    assert!(test.store.remove(&image.id).unwrap());
    test.assert_empty();
}

#[tokio::test]
async fn r04_two_pulls_at_once_fetch_a_shared_layer_once() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let base = (tar(&[("base", Some(&"shared ".repeat(200_000)))]), Compression::Gzip);
    let top = |name: &str| (tar(&[(name, Some(name))]), Compression::Gzip);
    layout.image("one:1", &[base.clone(), top("one")], None);
    layout.image("two:1", &[base.clone(), top("two")], None);
    registry.push(&layout, "one:1");
    registry.push(&layout, "two:1");
    let names = [registry.name("one:1"), registry.name("two:1")];
    let (one, two) = tokio::join!(pull(&test.store, &names[0]), pull(&test.store, &names[1]));
    let (one, two) = (one.unwrap(), two.unwrap());
    let (blob, _) = Layout::compress(&base.0, base.1);
    assert_eq!(registry.requests(&format!("blobs/{}", digest(&blob))), 1, "{}", registry.log());
    assert_eq!(one.chain_ids[0], two.chain_ids[0]);
    assert_eq!(test.names("layers").len(), 3);

    let usage = test.store.fs_usage().unwrap();
    assert!(usage.bytes > 1_400_000 && usage.bytes < 3_000_000 && usage.inodes >= 12, "{usage:?}");
    test.store.create_snapshot("a", &two.id).unwrap();
    assert!(test.store.remove(&names[0]).unwrap());
    assert_eq!(test.names("layers").len(), 2);
    assert!(matches!(test.store.remove(&names[1]), Err(Error::InUse { by, .. }) if by == ["a"]));
    test.store.remove_snapshot("a").unwrap();
    assert!(test.store.remove(&names[1]).unwrap());
    assert!(!test.store.remove(&names[1]).unwrap());
    test.assert_empty();
}

#[tokio::test]
async fn a_registry_with_basic_authentication_wants_the_right_password() {
    let options = RegistryOptions { user: Some(("ann", "secret")), ..RegistryOptions::default() };
    let (registry, mut layout, test) = (Registry::start_with(&options), Layout::new(), TestStore::new());
    layout.image("a:1", &three_layers(), None);
    registry.push(&layout, "a:1");
    let with = |password: Option<&str>| PullOptions {
        auth: password.map(|p| Auth::Basic { username: "ann".into(), password: p.into() }),
        ..PullOptions::default()
    };
    for wrong in [None, Some("wrong")] {
        let error = test.store.pull(&registry.name("a:1"), with(wrong)).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }) && !error.is_retryable(), "{error:?}");
    }
    test.store.pull(&registry.name("a:1"), with(Some("secret"))).await.unwrap();
}

#[tokio::test]
async fn layers_that_lie_are_refused_and_leave_nothing() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let layers = three_layers();
    let ids: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
    layout.image("lie/diff:1", &layers, Some(vec![ids[0].clone(), digest(b"another"), ids[2].clone()]));
    layout.image("lie/count:1", &layers, Some(vec![ids[0].clone()]));
    layout.image("lie/blob:1", &layers, None);
    for name in ["lie/diff:1", "lie/count:1"] {
        registry.push(&layout, name);
        let error = pull(&test.store, &registry.name(name)).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && !error.is_retryable(), "{name}: {error:?}");
        test.assert_empty();
    }
    registry.push(&layout, "lie/blob:1");
    let (blob, _) = Layout::compress(&layers[2].0, Compression::None);
    let file = registry.blob(&digest(&blob));
    let mut changed = blob.clone();
    changed[600] ^= 1;
    let longer = [&blob[..], &[0; 4096]].concat();
    for (what, bytes) in [("changed", &changed[..]), ("shorter", &blob[..1024]), ("longer", &longer)] {
        std::fs::write(&file, bytes).unwrap();
        let error = pull(&test.store, &registry.name("lie/blob:1")).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. } | Error::TooLarge { .. }), "{what}: {error:?}");
        test.assert_empty();
    }
    std::fs::write(&file, &blob).unwrap();
    pull(&test.store, &registry.name("lie/blob:1")).await.unwrap();
}

#[tokio::test]
async fn the_image_for_this_machine_is_taken_from_an_index() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let right = layout.image("right:1", &three_layers(), None);
    let other = layout.image("other:1", &three_layers()[..1], None);
    let index = layout.index("multi:1", &[("s390x", other.clone()), ("amd64", right)]);
    layout.index("foreign:1", &[("s390x", other.clone()), ("riscv64", other)]);
    registry.push_with(&layout, "multi:1", &["--all"]);
    registry.push_with(&layout, "foreign:1", &["--all"]);
    let image = pull(&test.store, &registry.name("multi:1")).await.unwrap();
    assert_eq!(
        (image.chain_ids.len(), image.repo_digests),
        (3, vec![registry.name(&format!("multi@{index}"))])
    );
    let reopened = registry.name("multi:1");
    assert_eq!(test.store.get(&reopened).unwrap().unwrap().id, image.id);
    let error = pull(&test.store, &registry.name("foreign:1")).await.unwrap_err();
    assert!(matches!(&error, Error::Unsupported { .. }) && error.to_string().contains("amd64"), "{error}");
}

#[tokio::test]
async fn a_docker_schema_2_image_is_pulled() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    let layers = [three_layers().remove(0)];
    layout.image("docker:1", &layers, None);
    let target = format!("docker://{}", registry.name("docker:1"));
    run(std::process::Command::new("skopeo")
        .args(["copy", "--dest-tls-verify=false", "--format=v2s2"])
        .arg(layout.reference("docker:1"))
        .arg(target));
    let image = pull(&test.store, &registry.name("docker:1")).await.unwrap();
    assert_eq!(image.chain_ids, [digest(&layers[0].0)]);
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_told_the_registry() {
    let (registry, mut layout, test) = (Registry::start(), Layout::new(), TestStore::new());
    layout.image("proxied/team/app:1", &three_layers(), None);
    registry.push(&layout, "proxied/team/app:1");
    let config = tempfile::tempdir().unwrap();
    let dir = config.path().join("registry.invalid");
    std::fs::create_dir(&dir).unwrap();
    let hosts = format!(
        "[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}/v2/proxied\"]\noverride_path = true\n",
        registry.address
    );
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let opts = PullOptions { registry_config: Some(config.path().to_owned()), ..PullOptions::default() };
    let image = test.store.pull("registry.invalid/team/app:1", opts).await.unwrap();
    assert_eq!(image.repo_tags, ["registry.invalid/team/app:1"]);
    assert!(registry.requests("ns=registry.invalid") > 0);
}

#[tokio::test]
async fn a_private_certificate_authority_is_trusted_when_configured() {
    let options = RegistryOptions { tls: true, ..RegistryOptions::default() };
    let (registry, mut layout, test) = (Registry::start_with(&options), Layout::new(), TestStore::new());
    layout.image("tls:1", &three_layers(), None);
    registry.push(&layout, "tls:1");
    let config = tempfile::tempdir().unwrap();
    let dir = config.path().join(&registry.address);
    std::fs::create_dir(&dir).unwrap();
    let opts = PullOptions { registry_config: Some(config.path().to_owned()), ..PullOptions::default() };
    let server = format!("server = \"https://{}\"\n", registry.address);
    let ca = format!("ca = \"{}\"\n", registry.dir.path().join("ca.pem").display());
    for (extra, works) in [("", false), ("skip_verify = true\n", true), (ca.as_str(), true)] {
        std::fs::write(dir.join("hosts.toml"), format!("{server}{extra}")).unwrap();
        let result = test.store.pull(&registry.name("tls:1"), opts.clone()).await;
        assert_eq!(result.is_ok(), works, "{extra}: {result:?}");
        if let Err(error) = result {
            assert!(matches!(error, Error::Network { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_what_cannot_be_reached_is_worth_another_try() {
    let (registry, test) = (Registry::start(), TestStore::new());
    let error = pull(&test.store, &registry.name("nothing:1")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }) && !error.is_retryable(), "{error:?}");
    let error = pull(&test.store, "127.0.0.1:1/nothing:1").await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.is_retryable(), "{error:?}");
    test.assert_empty();
}
