//! Checklist rows R10 and K23: an image pushed to a registry is pulled by the node, by tag and by digest, with a password, and
//! CRI's calls about images tell the truth about it.

use std::fs;
use std::process::{Child, Command, Stdio};

use pintle_integration::{Manifest, Node, ask, image_archive, wait_until};
use serde_json::Value;

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

/// Pushes one of two images that differ, and returns its digest.
fn push(node: &Node, which: &str, name: &str) -> String {
    let layout = node.path("layout");
    if !layout.exists() {
        let archive = format!("docker-archive:{}", image_archive().display());
        let first = format!("oci:{}:first", layout.display());
        node.in_netns("skopeo", &["copy", "--quiet", "--insecure-policy", &archive, &first]);
        let first = format!("{}:first", layout.display());
        node.in_netns(
            "umoci",
            &["config", "--image", &first, "--tag", "second", "--config.label", "is=second"],
        );
    }
    let (from, digest) = (format!("oci:{}:{which}", layout.display()), node.path("digest"));
    let to = format!("docker://{}/{name}", Registry::HOST);
    let file = digest.to_string_lossy().into_owned();
    let options = ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--digestfile", &file];
    let command: Vec<_> = options.into_iter().chain(["--dest-creds=kay:open-sesame", &from, &to]).collect();
    node.in_netns("skopeo", &command);
    fs::read_to_string(&digest).expect("a digest").trim().to_owned()
}

fn inspected(node: &Node, name: &str) -> Value {
    let text = node.pintle(&["inspecti", name]);
    serde_json::from_str::<Value>(&text).expect("JSON")["status"].clone()
}

fn names(image: &Value, field: &str) -> Vec<String> {
    let all = image[field].as_array().expect("a list");
    all.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// The two images are whole, and what is exported of one is read by others.
fn assert_sound_and_readable_by_others(node: &Node, name: &str) {
    let verified = node.pintle(&["image", "verify"]);
    assert!(verified.starts_with("Looked at 2 images: "), "{verified}");
    let archive = node.path("export.tar");
    node.pintle(&["export", "-o", &archive.to_string_lossy(), name]);
    let source = format!("docker-archive:{}:{name}", archive.display());
    let config = node.in_netns("skopeo", &["inspect", "--config", &source]);
    assert!(config.contains("second"), "{config}");
}

#[test]
fn k23_cris_calls_about_images_tell_the_truth_and_the_log_no_password() {
    let mut node = Node::prepare();
    let auth = node.path("auth.json");
    // kay:open-sesame
    let secret = "a2F5Om9wZW4tc2VzYW1l";
    let file = serde_json::json!({"auths": {Registry::HOST: {"auth": secret}}});
    fs::write(&auth, file.to_string()).expect("a file can be written");
    let pinned = format!("{}/kept*", Registry::HOST);
    node.set_config(&format!(
        "registryAuthFile: {}\npinnedImages: ['{pinned}']\nlogLevel: trace\n",
        auth.display()
    ));
    node.start_agent();
    let registry = Registry::start(&node);
    let name = |rest: &str| format!("{}/{rest}", Registry::HOST);
    let first = push(&node, "first", "demo:1");
    push(&node, "first", "demo:2");
    push(&node, "first", "kept:1");

    // The caller's word counts more than the node's, and is not repeated.
    let refused = node.try_pintle(&["pull", "--creds", "kay:no-such-word", &name("demo:1")]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("not authorized"), "{told}");

    // PullImage without credentials of the caller's: the node has some. Three names, one image.
    node.pintle(&["pull", "--annotation", "team=blue", &name("demo:1")]);
    for tag in ["demo:2", "kept:1"] {
        node.pintle(&["pull", &name(tag)]);
    }
    let image = inspected(&node, &name("demo:1"));
    assert_eq!(image["spec"]["annotations"]["team"], "blue", "{image}");
    let id = image["id"].as_str().expect("an id").to_owned();
    assert_eq!(names(&image, "repoTags"), [name("demo:1"), name("demo:2"), name("kept:1")]);
    assert_eq!(
        names(&image, "repoDigests"),
        [name(&format!("demo@{first}")), name(&format!("kept@{first}"))]
    );
    assert_eq!(image["pinned"], true);
    let short = &id["sha256:".len()..][..12];
    for same in [&name(&format!("demo@{first}")), &name(&format!("demo:1@{first}")), &id, short] {
        assert_eq!(inspected(&node, same)["id"], id.as_str(), "{same}");
    }
    let listed = node.pintle(&["images", "-q", "--no-trunc"]);
    assert_eq!(listed.lines().filter(|line| *line == id).count(), 1, "{listed}");

    // Another image takes a tag; the old one keeps the rest and its digest.
    let second = push(&node, "second", "demo:1");
    node.pintle(&["pull", &name("demo:1")]);
    let (old, new) = (inspected(&node, &name("demo:2")), inspected(&node, &name("demo:1")));
    assert_eq!((old["id"].as_str(), names(&old, "repoTags").len()), (Some(id.as_str()), 2));
    assert!(names(&old, "repoDigests").contains(&name(&format!("demo@{first}"))), "{old}");
    assert_eq!(names(&new, "repoTags"), [name("demo:1")]);
    assert_eq!(names(&new, "repoDigests"), [name(&format!("demo@{second}"))]);
    assert!(!new["pinned"].as_bool().unwrap_or_default(), "{new}");

    assert_sound_and_readable_by_others(&node, &name("demo:1"));

    // ImageFsInfo, and RemoveImage by a short id, which takes all names and is fine a second time.
    let (bytes, inodes) = ask::image_fs(&node.endpoint()).expect("an answer");
    assert!(bytes > 1 << 20 && inodes > 10, "{bytes} {inodes}");
    node.pintle(&["rmi", short]);
    let gone = node.try_pintle(&["inspecti", &name("demo:2")]);
    assert!(!gone.status.success());
    node.pintle(&["rmi", &name("demo:1")]);
    for name in [short, &id, &name("demo:1"), &name(&format!("demo@{second}"))] {
        ask::remove_image(&node.endpoint(), name).expect("removing what is gone is fine");
    }
    let (left, _) = ask::image_fs(&node.endpoint()).expect("an answer");
    assert!(left < bytes, "{left} of {bytes} are left");

    let log = fs::read_to_string(node.path("agent.log")).expect("a log");
    assert!(log.contains("a registry host failed"), "what is for developers is logged too");
    for secret in ["open-sesame", "no-such-word", secret] {
        assert!(!log.contains(secret) && !told.contains(secret), "a password is told");
    }
    drop(registry);
    node.finish();
}

#[test]
fn an_image_that_the_policy_refuses_runs_in_no_pod_and_the_pod_says_why() {
    let mut node = Node::prepare();
    let policy = node.path("policy.json");
    let write = |kind: &str| {
        let scopes = serde_json::json!({"docker": {Registry::HOST: [{"type": kind}]}});
        let file = serde_json::json!({"default": [{"type": "reject"}], "transports": scopes});
        fs::write(&policy, file.to_string()).expect("a file can be written");
    };
    write("reject");
    let auth = node.path("auth.json");
    let file = serde_json::json!({"auths": {Registry::HOST: {"username": "kay", "password": "open-sesame"}}});
    fs::write(&auth, file.to_string()).expect("a file can be written");
    node.set_config(&format!(
        "registryAuthFile: {}\nimageSignaturePolicy: {}\nimagePullBackOff: {{initial: 1s, max: 1s}}\n",
        auth.display(),
        policy.display()
    ));
    node.start_agent();
    let registry = Registry::start(&node);
    push(&node, "first", "demo:1");
    let name = format!("{}/demo:1", Registry::HOST);
    node.manifest("judged.yaml", &pod("judged", &name));
    let waits = |pod: &Value| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        waiting["reason"] == "SignatureValidationFailed" && message.contains("rejected")
    };
    node.wait_pod("judged", "refused", waits);
    let images = node.pintle(&["images", "-q"]);
    assert_eq!(images, "", "nothing is stored");
    let archive = image_archive();
    let import = node.try_pintle(&["import", &archive.to_string_lossy()]);
    let told = String::from_utf8_lossy(&import.stderr).into_owned();
    assert!(!import.status.success() && told.contains("the signature policy refuses"), "{told}");

    // The policy is read at each pull: the pod starts by itself.
    write("insecureAcceptAnything");
    node.wait_ready("judged");
    drop(registry);
    node.remove_manifest("judged.yaml");
    node.wait_gone("judged");
    node.finish();
}
