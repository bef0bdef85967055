//! Checklist row R10: an image pushed to a registry is pulled by the node, by tag and by digest, with a password.

use std::fs;
use std::process::{Child, Command, Stdio};

use pintle_integration::{Manifest, Node, image_archive, wait_until};

/// Debian's registry with a password, on the loopback of the node's network namespace.
struct Registry(Child);

impl Registry {
    const HOST: &str = "127.0.0.1:5000";

    fn start(node: &Node) -> Self {
        let dir = node.path("registry");
        fs::create_dir(&dir).expect("a directory can be made");
        let passwords =
            Command::new("htpasswd").args(["-Bbn", "kay", "open-sesame"]).output().expect("htpasswd runs");
        fs::write(dir.join("htpasswd"), passwords.stdout).expect("a file can be written");
        let config = format!(
            "version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {0}/data}}}}
http: {{addr: '{1}'}}
auth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}
",
            dir.display(),
            Self::HOST
        );
        fs::write(dir.join("config.yml"), config).expect("a file can be written");
        let child = node
            .command("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry runs");
        let registry = Self(child);
        wait_until("the registry to listen", || {
            node.in_netns("ss", &["-ltn"]).contains(":5000").then_some(())
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn pod(name: &str, image: &str) -> Manifest {
    Manifest::sleeper(name).of(image).with("imagePullPolicy", "IfNotPresent")
}

#[test]
fn r10_an_image_is_pulled_from_a_registry_by_tag_and_by_digest_with_a_password() {
    let node = Node::start();
    let registry = Registry::start(&node);
    let archive = format!("docker-archive:{}", image_archive().display());
    let tagged = format!("{}/demo:1", Registry::HOST);
    let digest_file = node.path("digest");
    node.in_netns(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
            "--dest-creds=kay:open-sesame",
            "--digestfile",
            &digest_file.to_string_lossy(),
            &archive,
            &format!("docker://{tagged}"),
        ],
    );
    let digest = fs::read_to_string(&digest_file).expect("a digest").trim().to_owned();
    let pinned = format!("{}/demo@{digest}", Registry::HOST);

    let refused = node.try_pintle(&["pull", "--creds", "kay:wrong", &tagged]);
    assert!(!refused.status.success(), "a wrong password is refused");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!why.contains("wrong\""), "the password is not repeated: {why}");

    node.pintle(&["pull", "--creds", "kay:open-sesame", &tagged]);
    node.manifest("tag.yaml", &pod("tag", &tagged));
    node.wait_ready("tag");
    node.remove_manifest("tag.yaml");
    node.wait_gone("tag");
    node.pintle(&["rmi", &tagged]);

    node.pintle(&["pull", "--creds", "kay:open-sesame", &pinned]);
    node.manifest("digest.yaml", &pod("digest", &pinned));
    let ready = node.wait_ready("digest");
    let id = ready["status"]["containerStatuses"][0]["imageID"].as_str().expect("an image id");
    assert!(id.contains("sha256:"), "{id}");

    // R07: what is there runs without the registry.
    drop(registry);
    node.remove_manifest("digest.yaml");
    node.wait_gone("digest");
    node.manifest("again.yaml", &pod("again", &pinned));
    node.wait_ready("again");
    node.finish();
}
