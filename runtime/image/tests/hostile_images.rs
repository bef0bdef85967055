//! Manifests, indexes, configurations and archives that lie, are too much or make no sense, one row each; runs as root. Each
//! is refused with the reason and leaves the store as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use pintle_image::Error;
use serde_json::{Value, json};
use support::raw_tar::RawTar;
use support::{Compression, Layout, TestStore, digest, tar};
use tar::EntryType;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn layer() -> Vec<u8> {
    tar(&[("file", Some("text"))])
}

fn config() -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer())]},
    })
}

/// An OCI layout with one image whose documents are as the caller wants them.
struct Draft(Layout);

impl Draft {
    fn new() -> Self {
        Self(Layout::new())
    }

    fn descriptor(&self, media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": self.0.blob(bytes), "size": bytes.len()})
    }

    fn manifest(&self, config: &str) -> Value {
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": [self.descriptor("application/vnd.oci.image.layer.v1.tar", &layer())],
        })
    }

    fn archive(self, media_type: &str, top: &str) -> Vec<u8> {
        let descriptor = self.descriptor(media_type, top.as_bytes());
        self.archive_of(&json!({"schemaVersion": 2, "manifests": [descriptor]}))
    }

    fn archive_of(self, index: &Value) -> Vec<u8> {
        std::fs::write(self.0.dir.path().join("index.json"), index.to_string()).unwrap();
        self.0.archive()
    }
}

fn with_config(config: &str) -> Vec<u8> {
    let draft = Draft::new();
    let manifest = draft.manifest(config).to_string();
    draft.archive(MANIFEST, &manifest)
}

fn with_config_field(pointer: &str, value: Value) -> Vec<u8> {
    with_config(&changed(config(), pointer, value).to_string())
}

fn with_manifest_field(pointer: &str, value: Value) -> Vec<u8> {
    let draft = Draft::new();
    let manifest = changed(draft.manifest(&config().to_string()), pointer, value).to_string();
    draft.archive(MANIFEST, &manifest)
}

fn with_index(index: &Value) -> Vec<u8> {
    Draft::new().archive(INDEX, &index.to_string())
}

/// The document with one field set; a field that is not there yet is added.
fn changed(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[field] = value;
    document
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Imports each beside a good image.
fn assert_all_refused(rows: Vec<(&str, Vec<u8>, &str)>) {
    let test = TestStore::new();
    let mut good = Layout::new();
    good.image("good:1", &[(tar(&[("good", Some("text"))]), Compression::None)], None);
    test.import(&good.archive()).unwrap();
    let before = test.listing();
    for (what, archive, reason) in rows {
        let error = match test.import(&archive) {
            Err(error) if !matches!(error, Error::Io { .. }) && !error.is_retryable() => error.to_string(),
            other => panic!("{what}: {other:?}"),
        };
        assert!(error.contains(reason) && error.len() < 1000, "{what}: {error}");
        assert!(test.listing() == before, "{what}: the store has changed");
    }
    test.store.create_snapshot("good", "good:1").unwrap();
    assert!(test.store.mount_snapshot("good").unwrap().join("good").exists());
    test.store.remove_snapshot("good").unwrap();
}

#[test]
fn configurations_that_lie_or_are_too_much_are_refused() {
    let text = config().to_string();
    let head = text.strip_suffix('}').unwrap();
    assert_all_refused(vec![
        ("no JSON", with_config("#!/bin/sh"), "configuration"),
        ("empty", with_config(""), "configuration"),
        ("a list", with_config("[]"), "configuration"),
        ("cut off", with_config(head), "configuration"),
        (
            "nested deep",
            with_config(&format!("{{\"config\":{{\"Cmd\":{}}}}}", nested(10_000))),
            "configuration",
        ),
        ("huge", with_config(&format!("{head},\"x\":\"{}\"}}", "x".repeat(9 << 20))), "limit"),
        ("a field twice", with_config(&format!("{head},\"os\":\"linux\"}}")), "duplicate"),
        ("an environment that is a number", with_config_field("/config/Env", json!(7)), "configuration"),
        ("a command that is a map", with_config_field("/config/Cmd", json!({"a": 1})), "configuration"),
        ("a command with a zero byte", with_config_field("/config/Cmd", json!(["a\0b"])), "Cmd"),
        (
            "an entrypoint with a zero byte",
            with_config_field("/config/Entrypoint", json!(["\0"])),
            "Entrypoint",
        ),
        ("an environment with a zero byte", with_config_field("/config/Env", json!(["A=\0"])), "Env"),
        ("an environment without a name", with_config_field("/config/Env", json!(["=x"])), "Env"),
        ("a user with a zero byte", with_config_field("/config/User", json!("0\0")), "User"),
        ("a directory with a zero byte", with_config_field("/config/WorkingDir", json!("/\0")), "WorkingDir"),
        ("no layers", with_config_field("/rootfs/diff_ids", json!([])), "names 0 layers"),
        (
            "too many layers",
            with_config_field("/rootfs/diff_ids", json!(vec![digest(b""); 2])),
            "names 2 layers",
        ),
        ("another diff id", with_config_field("/rootfs/diff_ids", json!([digest(b"other")])), "diff id"),
        (
            "a diff id that is a path",
            with_config_field("/rootfs/diff_ids", json!(["sha256:../../x"])),
            "digest",
        ),
        ("a million diff ids", with_config_field("/rootfs/diff_ids", json!(vec!["x"; 1_000_000])), "x"),
        ("no root file system", with_config(r#"{"architecture":"amd64","os":"linux"}"#), "configuration"),
        ("another system", with_config_field("/os", json!("windows")), "windows"),
        ("another processor", with_config_field("/architecture", json!("s390x")), "s390x"),
        (
            "a processor's endless name",
            with_config_field("/architecture", json!("x".repeat(1 << 20))),
            "supported",
        ),
    ]);
}

#[test]
fn manifests_that_lie_or_are_too_much_are_refused() {
    let missing =
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b"no"), "size": 2});
    let foreign = changed(missing.clone(), "/urls", json!(["file:///etc/passwd"]));
    let text = Draft::new().manifest(&config().to_string()).to_string();
    let head = text.strip_suffix('}').unwrap();
    let raw = |text: String| Draft::new().archive(MANIFEST, &text);
    assert_all_refused(vec![
        ("no JSON", raw("MZ".into()), "manifest"),
        ("nested deep", raw(format!("{{\"layers\":{}}}", nested(10_000))), "manifest"),
        ("huge", raw(format!("{head},\"x\":\"{}\"}}", "x".repeat(5 << 20))), "limit"),
        ("a field twice", raw(format!("{head},\"layers\":[]}}")), "duplicate"),
        ("schema version 1", with_manifest_field("/schemaVersion", json!(1)), "version 1"),
        ("another type", with_manifest_field("/mediaType", json!("text/html")), "text/html"),
        ("manifest and index at once", with_manifest_field("/manifests", json!([])), "neither"),
        ("layers that are a map", with_manifest_field("/layers", json!({})), "manifest"),
        ("128 layers", with_manifest_field("/layers", json!(vec![missing.clone(); 128])), "127"),
        ("a layer that is not there", with_manifest_field("/layers", json!([missing])), "digest"),
        ("a layer elsewhere", with_manifest_field("/layers", json!([foreign])), "digest"),
        (
            "an unknown layer type",
            with_manifest_field("/layers/0/mediaType", json!("text/html")),
            "text/html",
        ),
        ("a layer that is shorter", with_manifest_field("/layers/0/size", json!(100_000)), "bytes"),
        ("a layer that is longer", with_manifest_field("/layers/0/size", json!(100)), "bytes"),
        ("a layer of negative size", with_manifest_field("/layers/0/size", json!(-1)), "manifest"),
        ("a layer of huge size", with_manifest_field("/layers/0/size", json!(u64::MAX)), "limit"),
        ("a layer of fractional size", with_manifest_field("/layers/0/size", json!(1.5)), "manifest"),
        ("a digest that is a path", with_manifest_field("/layers/0/digest", json!("sha256:../x")), "digest"),
        ("a digest of another kind", with_manifest_field("/layers/0/digest", json!("sha512:00")), "sha512"),
        (
            "a configuration that is not there",
            with_manifest_field("/config/digest", json!(digest(b"no"))),
            "digest",
        ),
        ("a configuration of another size", with_manifest_field("/config/size", json!(1)), "bytes"),
        ("a configuration of huge size", with_manifest_field("/config/size", json!(1_u64 << 40)), "limit"),
        ("an artifact", with_manifest_field("/config/mediaType", json!("application/vnd.helm")), "artifact"),
    ]);
}

#[test]
fn what_is_there_already_must_have_the_size_that_is_claimed_too() {
    let test = TestStore::new();
    test.import(&with_config(&config().to_string())).unwrap();
    let before = test.listing();
    for pointer in ["/layers/0/size", "/config/size"] {
        let error = test.import(&with_manifest_field(pointer, json!(100))).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { reason, .. } if reason.contains("100")), "{error:?}");
        assert!(test.listing() == before);
    }
}

#[test]
fn odd_documents_do_no_harm() {
    let test = TestStore::new();
    let text = config().to_string();
    let deep = format!("{},\"x\":{}}}", text.strip_suffix('}').unwrap(), nested(1_000_000));
    for archive in [
        with_config(&deep),
        with_config_field("/config/Env", json!(["NO_EQUALS_SIGN", "A=b=c"])),
        with_config_field("/config/User", json!("-1:no such group")),
        with_config_field("/config/Labels", json!({"": "x", "a\nb": "c\0d"})),
        with_manifest_field("/layers/0/urls", json!(["file:///etc/passwd"])),
    ] {
        let image = test.import(&archive).unwrap().remove(0);
        test.store.create_snapshot("odd", &image.id).unwrap();
        assert!(test.store.mount_snapshot("odd").unwrap().join("file").exists());
        test.store.remove_snapshot("odd").unwrap();
        test.store.remove(&image.id).unwrap();
        test.assert_empty();
    }
}

#[test]
fn indexes_that_lead_nowhere_are_refused() {
    let entry = |digest: String, size: usize| json!({"mediaType": MANIFEST, "digest": digest, "size": size});
    let index =
        |manifests: Vec<Value>| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let inner = index(vec![entry(digest(b"x"), 1)]).to_string();
    let in_index = Draft::new();
    let descriptor = in_index.descriptor(INDEX, inner.as_bytes());
    let outer = index(vec![descriptor]).to_string();
    let other = changed(entry(digest(b"x"), 1), "/platform", json!({"os": "plan9", "architecture": "mips"}));
    let top =
        |manifests: Vec<Value>| Draft::new().archive_of(&json!({"schemaVersion": 2, "manifests": manifests}));
    let twice = {
        let draft = Draft::new();
        let manifest = draft.manifest(&config().to_string()).to_string();
        let mut descriptor = draft.descriptor(MANIFEST, manifest.as_bytes());
        descriptor["size"] = json!(1);
        draft.archive_of(&json!({"schemaVersion": 2, "manifests": [descriptor]}))
    };
    let named =
        changed(entry(digest(b"x"), 1), "/annotations", json!({"io.containerd.image.name": "../../x"}));
    assert_all_refused(vec![
        ("empty", with_index(&index(vec![])), "platform"),
        ("10,000 entries", with_index(&index(vec![entry(digest(b"x"), 1); 10_000])), "1024"),
        ("an index inside", in_index.archive(INDEX, &outer), "index inside an index"),
        ("other platforms only", with_index(&index(vec![other])), "plan9/mips"),
        ("a manifest that is not there", with_index(&index(vec![entry(digest(b"x"), 1)])), "digest"),
        ("a list of 2,000 images", top(vec![entry(digest(b"x"), 1); 2000]), "1024"),
        ("a list of nothing", top(vec![]), "no image"),
        ("a list of what is not there", top(vec![entry(digest(b"x"), 1)]), "digest"),
        ("a manifest of another size", twice, "bytes"),
        ("a name that is none", top(vec![named]), "name"),
    ]);
}

#[test]
fn archives_that_lead_out_or_in_circles_are_refused() {
    let raw = RawTar::default;
    let list = |image: Value| raw().file("manifest.json", &image.to_string());
    let image =
        |config: &str, layers: Value| json!([{"Config": config, "RepoTags": ["a:1"], "Layers": layers}]);
    let text = config().to_string();
    let circle = raw().symlink("index.json", "b").symlink("b", "index.json");
    let many = Value::Array(vec![image("c", json!([]))[0].clone(); 2000]);
    let hex = digest(&layer());
    let linked = {
        let draft = Draft::new();
        let manifest = draft.manifest(&config().to_string()).to_string();
        let path = draft.0.dir.path().join("blobs/sha256").join(&hex[7..]);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let descriptor = draft.descriptor(MANIFEST, manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(draft.0.dir.path().join("index.json"), index.to_string()).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.append_dir_all(".", draft.0.dir.path()).unwrap();
        builder.into_inner().unwrap()
    };
    assert_all_refused(vec![
        ("nothing", Vec::new(), "neither"),
        ("no list", raw().file("a", "x").bytes(), "neither"),
        ("a list that is a link out", raw().symlink("index.json", "/etc/passwd").bytes(), "neither"),
        ("lists that are links in a circle", circle.bytes(), "neither"),
        ("a list that is no JSON", raw().file("index.json", "{").bytes(), "index.json"),
        ("a list that is a directory", raw().dir("index.json").bytes(), "neither"),
        ("a path out", raw().file("../../etc/cron.d/x", "x").bytes(), "'..'"),
        ("a configuration outside", list(image("../../../../etc/passwd", json!([]))).bytes(), "etc/passwd"),
        ("a configuration by an absolute path", list(image("/etc/passwd", json!([]))).bytes(), "etc/passwd"),
        (
            "a layer outside",
            list(image("c", json!(["../../../etc/passwd"]))).file("c", &text).bytes(),
            "etc/passwd",
        ),
        (
            "a layer that is a link out",
            list(image("c", json!(["l"]))).file("c", &text).symlink("l", "/etc/passwd").bytes(),
            "lacks",
        ),
        (
            "a layer that is a hard link out",
            list(image("c", json!(["l"]))).file("c", &text).hardlink("l", "../../etc/passwd").bytes(),
            "lacks",
        ),
        (
            "a layer that is a device",
            list(image("c", json!(["l"]))).file("c", &text).device(EntryType::Block, "l", (8, 0)).bytes(),
            "lacks",
        ),
        ("a blob that is a link out", linked, "digest"),
        ("a layer too few", list(image("c", json!([]))).file("c", &text).bytes(), "the manifest 0"),
        ("2,000 images", list(many).file("c", &text).bytes(), "1024"),
        ("an empty list", list(json!([])).bytes(), "no image"),
        ("a list of 5 MiB", raw().file("index.json", &" ".repeat(5 << 20)).bytes(), "limit"),
        ("cut off", raw().file("index.json", &"x".repeat(5000)).bytes()[..3000].to_vec(), "middle"),
        ("a header without end", raw().extended(EntryType::XHeader, &[b'1'; 2 << 20]).bytes(), "extended"),
        ("a shell script", b"#!/bin/sh\n".repeat(100), "archive"),
        ("gzip that is cut off", Layout::compress(&[7; 5000], Compression::Gzip).0[..20].to_vec(), "archive"),
        ("zstd that is cut off", Layout::compress(&[7; 5000], Compression::Zstd).0[..12].to_vec(), "archive"),
    ]);
}
