//! Who we are at Debian's docker-registry: files, helper programs, credential providers, client certificates, mirrors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pintle_image::{Auth, Error, Keyring, KeyringConfig, Policy, PullOptions};
use support::{Compression, Layout, Registry, RegistryOptions, TestStore, tar};

fn registry(options: &RegistryOptions) -> Registry {
    let (registry, mut layout) = (Registry::start_with(options), Layout::new());
    layout.image("team/a:1", &[(tar(&[("etc", None), ("etc/x", Some("x"))]), Compression::Gzip)], None);
    if options.client_certificates {
        // skopeo's own layout of certificates.
        let certificates = registry.dir.path().join("certs.d");
        std::fs::create_dir(&certificates).unwrap();
        for (from, to) in [("client.pem", "client.cert"), ("client.key", "client.key"), ("ca.pem", "ca.crt")]
        {
            std::fs::copy(registry.dir.path().join(from), certificates.join(to)).unwrap();
        }
        registry.push_with(&layout, "team/a:1", &[&format!("--dest-cert-dir={}", certificates.display())]);
    } else {
        registry.push(&layout, "team/a:1");
    }
    registry
}

fn with_password() -> Registry {
    registry(&RegistryOptions { user: Some(("ann", "open-sesame")), ..RegistryOptions::default() })
}

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn known_by(config: &KeyringConfig) -> PullOptions {
    PullOptions { keyring: Some(Arc::new(Keyring::new(config).unwrap())), ..PullOptions::default() }
}

#[tokio::test]
async fn the_password_of_a_docker_configuration_serves_and_a_change_of_the_file_counts_at_once() {
    let (registry, test, dir) = (with_password(), TestStore::new(), tempfile::tempdir().unwrap());
    let file = dir.path().join("config.json");
    let write = |auth: &str| {
        let json = serde_json::json!({"auths": {format!("http://{}/v2/", registry.address): {"auth": auth}}});
        std::fs::write(&file, json.to_string()).unwrap();
    };
    // ann:wrong, ann:open-sesame
    write("YW5uOndyb25n");
    let options = known_by(&KeyringConfig { docker_config: Some(file.clone()), ..KeyringConfig::default() });
    let error = test.store.pull(&registry.name("team/a:1"), options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(!format!("{error:?} {options:?}").contains("wrong"), "{error:?}");
    write("YW5uOm9wZW4tc2VzYW1l");
    let image = test.store.pull(&registry.name("team/a:1"), options.clone()).await.unwrap();
    // The caller's own word counts more.
    let auth = Some(Auth::Basic { username: "ann".into(), password: "wrong".into() });
    test.store.remove(&image.id).unwrap();
    let error =
        test.store.pull(&registry.name("team/a:1"), PullOptions { auth, ..options }).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    test.assert_empty();
}

#[tokio::test]
async fn a_credential_helper_is_asked_by_dockers_protocol() {
    let (registry, test, dir) = (with_password(), TestStore::new(), tempfile::tempdir().unwrap());
    let answer = r#"test "$1" = get && read -r server; echo "$server" >> "$0.asked"
        echo "{\"ServerURL\":\"$server\",\"Username\":\"ann\",\"Secret\":\"open-sesame\"}""#;
    let helper = script(dir.path(), "docker-credential-testkeys", answer);
    let file = dir.path().join("config.json");
    let json = serde_json::json!({"credHelpers": {&registry.address: "testkeys"}});
    std::fs::write(&file, json.to_string()).unwrap();
    let options = known_by(&KeyringConfig {
        docker_config: Some(file),
        provider_programs: Some(dir.path().to_owned()),
        ..KeyringConfig::default()
    });
    test.store.pull(&registry.name("team/a:1"), options).await.unwrap();
    let asked = std::fs::read_to_string(format!("{}.asked", helper.display())).unwrap();
    assert_eq!(asked, format!("{}\n", registry.address));
}

/// A node's credential provider for the loopback address, whose answer is that of `answer`.
fn provider(dir: &Path, address: &str, answer: &str) -> KeyringConfig {
    script(dir, "provider", answer);
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: provider\n  \
         matchImages: ['{address}/team']\n  defaultCacheDuration: 1h\n  \
         apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
    );
    std::fs::write(dir.join("providers.yaml"), config).unwrap();
    KeyringConfig {
        providers: Some(dir.join("providers.yaml")),
        provider_programs: Some(dir.to_owned()),
        ..KeyringConfig::default()
    }
}

#[tokio::test]
async fn a_credential_provider_of_kubernetes_is_asked_once_and_only_when_a_registry_wants_to_know() {
    let (registry, test, dir) = (with_password(), TestStore::new(), tempfile::tempdir().unwrap());
    let answer = format!(
        r#"cat >> "$0.asked"; echo >> "$0.asked"
        echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType":"Registry","auth":{{"{}":{{"username":"ann","password":"open-sesame"}}}}}}'"#,
        registry.address
    );
    let options = known_by(&provider(dir.path(), &registry.address, &answer));
    let asked = || std::fs::read_to_string(dir.path().join("provider.asked")).unwrap_or_default();
    let open = self::registry(&RegistryOptions::default());
    test.store.pull(&open.name("team/a:1"), options.clone()).await.unwrap();
    assert_eq!(asked(), "", "an open registry needs no credentials");
    for _ in 0..2 {
        let image = test.store.pull(&registry.name("team/a:1"), options.clone()).await.unwrap();
        test.store.remove(&image.id).unwrap();
    }
    let asked = asked();
    assert_eq!(asked.lines().count(), 1, "{asked}");
    let request: serde_json::Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(request["image"], registry.name("team/a"));
    assert_eq!(request["kind"], "CredentialProviderRequest");
}

#[tokio::test]
async fn a_provider_that_fails_is_named_and_what_it_said_is_not_repeated() {
    let (registry, test, dir) = (with_password(), TestStore::new(), tempfile::tempdir().unwrap());
    let options = known_by(&provider(dir.path(), &registry.address, "echo open-sesame; exit 4"));
    let error = test.store.pull(&registry.name("team/a:1"), options).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("provider") && text.contains("exit status: 4"), "{text}");
    assert!(!text.contains("open-sesame"), "{text}");
    test.assert_empty();
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_configured() {
    let options = RegistryOptions { tls: true, client_certificates: true, ..RegistryOptions::default() };
    let (registry, test, config) = (registry(&options), TestStore::new(), tempfile::tempdir().unwrap());
    let dir = config.path().join(&registry.address);
    std::fs::create_dir(&dir).unwrap();
    let opts = PullOptions { registry_config: Some(config.path().to_owned()), ..PullOptions::default() };
    let own = |name: &str| registry.dir.path().join(name).display().to_string();
    let both = std::fs::read_to_string(own("client.pem")).unwrap()
        + &std::fs::read_to_string(own("client.key")).unwrap();
    std::fs::write(dir.join("both.pem"), both).unwrap();
    let head = format!("server = \"https://{}\"\nca = \"{}\"\n", registry.address, own("ca.pem"));
    for (client, works) in [
        (String::new(), false),
        (format!("client = [[\"{}\", \"{}\"]]\n", own("client.pem"), own("client.key")), true),
        ("client = \"both.pem\"\n".to_owned(), true),
    ] {
        std::fs::write(dir.join("hosts.toml"), format!("{head}{client}")).unwrap();
        let result = test.store.pull(&registry.name("team/a:1"), opts.clone()).await;
        assert_eq!(result.is_ok(), works, "{client}: {result:?}");
    }
    // Docker's layout of the same.
    std::fs::remove_file(dir.join("hosts.toml")).unwrap();
    for (from, to) in [("client.pem", "a.cert"), ("client.key", "a.key"), ("ca.pem", "ca.crt")] {
        std::fs::copy(own(from), dir.join(to)).unwrap();
    }
    test.store.pull(&registry.name("team/a:1"), opts).await.unwrap();
}

#[tokio::test]
async fn a_mirror_gets_its_own_headers_another_repository_and_nobody_elses_password() {
    let test = TestStore::new();
    let mut layout = Layout::new();
    let manifest = layout.image("x", &[(tar(&[("f", Some("f"))]), Compression::None)], None);
    let headers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&headers);
    let mirror = support::server::Server::of_image(&layout, &manifest, move |request, _| {
        seen.lock().unwrap().push((request.path.clone(), request.authorization.clone()));
        None
    });
    let config = tempfile::tempdir().unwrap();
    let dir = config.path().join("registry.invalid");
    std::fs::create_dir(&dir).unwrap();
    let hosts = format!(
        "[host.\"http://{0}/cache\"]\noverride_path = true\nheader = {{ authorization = \"Mirror own\" }}\n\
         [host.\"http://{0}/cache\".rewrite]\n\"^team/(.*)\" = \"all/of/$1\"\n",
        mirror.address
    );
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let auth = Some(Auth::Basic { username: "ann".into(), password: "open-sesame".into() });
    let opts =
        PullOptions { auth, registry_config: Some(config.path().to_owned()), ..PullOptions::default() };
    let image = test.store.pull("registry.invalid/team/app:1", opts).await.unwrap();
    assert_eq!(image.repo_tags, ["registry.invalid/team/app:1"]);
    let headers = headers.lock().unwrap();
    assert!(
        headers.iter().all(|(path, authorization)| {
            path.starts_with("/cache/all/of/app/")
                && path.ends_with("?ns=registry.invalid")
                && authorization == "Mirror own"
        }),
        "{headers:?}"
    );
    assert!(headers.len() >= 3, "{headers:?}");
}

#[tokio::test]
async fn an_image_that_the_policy_refuses_is_not_stored_and_its_layers_are_not_fetched() {
    let (registry, test, dir) =
        (registry(&RegistryOptions::default()), TestStore::new(), tempfile::tempdir().unwrap());
    let file = dir.path().join("policy.json");
    let policy = serde_json::json!({"default": [{"type": "reject"}], "transports": {"docker": {
        &registry.address: [{"type": "sigstoreSigned", "keyPath": "/key.pub"}]}}});
    std::fs::write(&file, policy.to_string()).unwrap();
    let verifier = script(
        dir.path(),
        "verify",
        r#"echo "$1 $2" > "$0.asked"; cat "$3" > "$0.manifest"; test -e "$0.ok""#,
    );
    let policy = Some(Policy::new(&file, Some(&verifier)).unwrap());
    let options = PullOptions { policy, ..PullOptions::default() };
    let error = test.store.pull(&registry.name("team/a:1"), options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && !error.is_retryable(), "{error:?}");
    assert_eq!(registry.requests("/blobs/"), 0, "{}", registry.log());
    test.assert_empty();
    std::fs::write(dir.path().join("verify.ok"), "").unwrap();
    let image = test.store.pull(&registry.name("team/a:1"), options.clone()).await.unwrap();
    let asked = std::fs::read_to_string(dir.path().join("verify.asked")).unwrap();
    let digest = image.repo_digests[0].split_once('@').unwrap().1;
    assert_eq!(asked, format!("{} {digest}\n", registry.name("team/a:1")));
    let manifest = std::fs::read(dir.path().join("verify.manifest")).unwrap();
    assert_eq!(support::digest(&manifest), digest);
    // Another registry falls under the default; so do archives.
    let error = test.store.pull("127.0.0.2:1/team/a:1", options).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "nothing is there to judge: {error:?}");
    let policy = Some(Policy::new(&file, Some(&verifier)).unwrap());
    let import = pintle_image::ImportOptions { policy, ..pintle_image::ImportOptions::default() };
    let error = test.store.import(Layout::new().archive().as_slice(), import).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}
