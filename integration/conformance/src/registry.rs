//! A registry with the images that are pulled.
//!
//! In: the ground, an archive. Out: Debian's docker-registry on the ground's own loopback, with the demo image under two
//! tags.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use pintle_integration::{image_archive, time_out};

use crate::ground::Ground;

/// Where it listens; the network is the ground's own.
pub(crate) const ADDRESS: &str = "127.0.0.1:5555";

/// The registry.
#[derive(Debug)]
pub(crate) struct Registry(Child);

impl Registry {
    /// Starts it and fills it.
    pub(crate) fn start(ground: &Ground) -> Self {
        let config = ground.path("registry.yml");
        let storage = ground.path("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
                 http: {{addr: '{ADDRESS}'}}\n",
                storage.display()
            ),
        )
        .expect("a configuration");
        let log = fs::File::create(ground.path("registry.log")).expect("a log");
        let child = ground
            .command("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry starts");
        let registry = Self(child);
        registry.fill(ground);
        registry
    }

    fn fill(&self, ground: &Ground) {
        let end = Instant::now() + time_out(30);
        let archive = format!("docker-archive:{}", image_archive().display());
        let first = format!("docker://{ADDRESS}/cri/demo:1");
        loop {
            let args = ["copy", "--dest-tls-verify=false", "--quiet", &archive, &first];
            let pushed = ground.command("skopeo").args(args).output().expect("skopeo runs");
            if pushed.status.success() {
                break;
            }
            let words = String::from_utf8_lossy(&pushed.stderr);
            assert!(Instant::now() < end, "the registry takes no image: {words}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let both = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let second = format!("docker://{ADDRESS}/cri/demo:2");
        ground.run("skopeo", &["copy", both[0], both[1], "--quiet", &first, &second]);
    }

    /// The digest of the manifest that both tags stand for.
    pub(crate) fn digest(ground: &Ground) -> String {
        let link = "registry/docker/registry/v2/repositories/cri/demo/_manifests/tags/1/current/link";
        let path: &Path = &ground.path(link);
        fs::read_to_string(path).expect("a tag").trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
