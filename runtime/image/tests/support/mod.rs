//! What the tests of the image store share: images made by hand, a real registry, and the check that nothing is left.

#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, not all used by each of them")]

pub(crate) mod raw_tar;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pintle_image::{Error, Image, ImageStore, ImportOptions};
use sha2::{Digest, Sha256};

/// A store in its own directory; dropped, it proves that no mount is left below it.
pub(crate) struct TestStore {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Another process' view: the store is let go of and opened again.
    pub(crate) fn reopen(mut self) -> Self {
        let elsewhere = tempfile::tempdir().unwrap();
        drop(std::mem::replace(&mut self.store, ImageStore::open(elsewhere.path()).unwrap()));
        self.store = ImageStore::open(self.dir.path()).unwrap();
        self
    }

    /// Names in a directory of the store.
    pub(crate) fn names(&self, below: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(below)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn import(&self, archive: &[u8]) -> Result<Vec<Image>, Error> {
        self.store.import(archive, ImportOptions::default())
    }

    /// Every file of the store with mode, size, owner and device, however deep.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, (u32, u64, u32, u64)> {
        let (mut found, mut todo) = (BTreeMap::new(), vec![self.dir.path().to_owned()]);
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = std::fs::symlink_metadata(&path).unwrap();
                let size = if meta.is_dir() { 0 } else { meta.len() };
                if meta.is_dir() {
                    todo.push(path.clone());
                }
                found.insert(path, (meta.mode(), size, meta.uid(), meta.rdev()));
            }
        }
        found
    }

    pub(crate) fn assert_empty(&self) {
        for dir in ["images/blobs/sha256", "images/ingest", "layers", "snapshots"] {
            assert_eq!(self.names(dir), Vec::<String>::new(), "left in {dir}");
        }
        assert!(self.store.list().unwrap().is_empty());
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(here)).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "mounts are left: {left:?}");
        }
        for line in left {
            let target = line.split(' ').nth(4).unwrap();
            rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer's tar from paths and contents; `None` makes a directory, contents beginning with `->` a link.
pub(crate) fn tar(files: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let body = contents.unwrap_or("");
        header.set_mode(match (contents, *path) {
            (None, "tmp") => 0o1777,
            (None, _) => 0o755,
            (Some(_), _) => 0o644,
        });
        match (contents, body.strip_prefix("->")) {
            (None, _) => header.set_entry_type(tar::EntryType::Directory),
            (Some(_), Some(target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, path, target).unwrap();
                continue;
            }
            (Some(_), None) => {}
        }
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, path, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// An OCI layout on disk that images are put into by hand.
pub(crate) struct Layout {
    pub(crate) dir: tempfile::TempDir,
    manifests: Vec<serde_json::Value>,
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, manifests: Vec::new() }
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        std::fs::write(self.dir.path().join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        digest
    }

    pub(crate) fn compress(bytes: &[u8], compression: Compression) -> (Vec<u8>, &'static str) {
        match compression {
            Compression::None => (bytes.to_vec(), ""),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                (encoder.finish().unwrap(), "+gzip")
            }
            Compression::Zstd => (zstd::encode_all(bytes, 3).unwrap(), "+zstd"),
        }
    }

    /// Adds an image and returns the descriptor of its manifest. `diff_ids` replaces the right ones.
    pub(crate) fn image(
        &mut self,
        name: &str,
        layers: &[(Vec<u8>, Compression)],
        diff_ids: Option<Vec<String>>,
    ) -> serde_json::Value {
        let right: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids.unwrap_or(right)},
        })
        .to_string();
        let layers: Vec<_> = layers
            .iter()
            .map(|(tar, compression)| {
                let (bytes, suffix) = Self::compress(tar, *compression);
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
                serde_json::json!({"mediaType": media_type, "digest": self.blob(&bytes), "size": bytes.len()})
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.blob(config.as_bytes()), "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = manifest.to_string();
        let descriptor = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.blob(manifest.as_bytes()), "size": manifest.len(),
        });
        self.name(name, descriptor.clone());
        descriptor
    }

    /// Adds an index of images for several platforms.
    pub(crate) fn index(&mut self, name: &str, images: &[(&str, serde_json::Value)]) -> String {
        let manifests: Vec<_> = images
            .iter()
            .map(|(architecture, descriptor)| {
                let mut descriptor = descriptor.clone();
                descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
                descriptor
            })
            .collect();
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        });
        let index = index.to_string();
        let digest = self.blob(index.as_bytes());
        let media_type = "application/vnd.oci.image.index.v1+json";
        self.name(name, serde_json::json!({"mediaType": media_type, "digest": digest, "size": index.len()}));
        digest
    }

    fn name(&mut self, name: &str, mut descriptor: serde_json::Value) {
        descriptor["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
    }

    /// The layout as an archive.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", self.dir.path()).unwrap();
        builder.into_inner().unwrap()
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.dir.path().display())
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What kind of registry to run.
#[derive(Default)]
pub(crate) struct RegistryOptions {
    /// User and password.
    pub(crate) user: Option<(&'static str, &'static str)>,
    pub(crate) tls: bool,
    /// Whether clients have to show a certificate (`client.pem`, `client.key`).
    pub(crate) client_certificates: bool,
}

/// Debian's docker-registry on a loopback port of its own.
pub(crate) struct Registry {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: String,
    child: Child,
    user: Option<(&'static str, &'static str)>,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_with(&RegistryOptions::default())
    }

    pub(crate) fn start_with(options: &RegistryOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = Self::configuration(dir.path(), &address, options);
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { dir, address, child, user: options.user };
        registry.wait_until_it_listens();
        registry
    }

    fn configuration(dir: &Path, address: &str, options: &RegistryOptions) -> String {
        let show = |name: &str| dir.join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            show("data")
        );
        if options.tls {
            make_certificates(dir);
            config += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                show("server.pem"),
                show("server.key")
            );
        }
        if options.client_certificates {
            config += &format!("    clientcas:\n      - {}\n", show("ca.pem"));
        }
        if let Some((user, password)) = options.user {
            let line = run(Command::new("htpasswd").args(["-nbB", user, password]));
            std::fs::write(dir.join("htpasswd"), line).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", show("htpasswd"));
        }
        config
    }

    fn wait_until_it_listens(&self) {
        let scale: f64 =
            std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
        let deadline = Instant::now() + Duration::from_secs(20).mul_f64(scale);
        while std::net::TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Requests of the store, as lines of the access log.
    pub(crate) fn requests(&self, containing: &str) -> usize {
        let log = self.log();
        log.lines()
            .filter(|l| l.contains("HTTP/1.1\" 200") && l.contains("pintle/") && l.contains(containing))
            .count()
    }

    pub(crate) fn push(&self, layout: &Layout, name: &str) {
        self.push_with(layout, name, &[]);
    }

    pub(crate) fn push_with(&self, layout: &Layout, name: &str, arguments: &[&str]) {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--dest-tls-verify=false", "--preserve-digests"]).args(arguments);
        if let Some((user, password)) = self.user {
            command.arg(format!("--dest-creds={user}:{password}"));
        }
        run(command.arg(layout.reference(name)).arg(format!("docker://{}/{name}", self.address)));
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = &digest[7..];
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A CA (`ca.pem`), a server certificate for 127.0.0.1 and a client's.
fn make_certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(dir));
    };
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("{key} -x509 -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    openssl(&format!("{key} -keyout server.key -out server.csr -subj /CN=registry"));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
    );
    openssl(&format!("{key} -keyout client.key -out client.csr -subj /CN=node"));
    openssl(
        "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out client.pem",
    );
}
