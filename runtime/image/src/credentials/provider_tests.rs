//! Providers that are shell scripts.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";

/// A directory with the program `ask`, which does what `script` says, and with `config.yaml`.
fn node(script: &str, entry: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ask");
    std::fs::write(&program, format!("#!/bin/sh\necho run >> {}/runs\n{script}", dir.path().display()))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("config.yaml"), format!("{HEAD}{entry}")).unwrap();
    dir
}

fn open(dir: &tempfile::TempDir) -> Result<Vec<Provider>, Error> {
    read(&dir.path().join("config.yaml"), dir.path())
}

fn runs(dir: &tempfile::TempDir) -> usize {
    std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count()
}

const ENTRY: &str = "- name: ask
  matchImages: ['*.example.io', 'other.io:5000/team']
  defaultCacheDuration: 10m
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [--for, pintle]
  env: [{name: WHO, value: ann}]
";

fn answer(kind: &str, duration: &str) -> String {
    format!(
        "cat <<END\n{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
         \"cacheKeyType\":\"{kind}\",{duration}\"auth\":{{\"*.example.io\":{{\"username\":\"$WHO$2\",\"password\":\"$image\"}},\
         \"*.example.io/team\":{{\"username\":\"team\",\"password\":\"x\"}}}}}}\nEND\n"
    )
}

fn basic(username: &str, password: &str) -> Auth {
    Auth::Basic { username: username.into(), password: password.into() }
}

const READ_IMAGE: &str = "image=$(sed 's/.*\"image\":\"\\([^\"]*\\)\".*/\\1/')\n";

#[tokio::test]
async fn a_provider_is_given_the_image_and_its_answer_is_kept_as_it_says() {
    for (kind, duration, expected) in [
        ("Image", "", [1, 1, 2, 3]),
        ("Registry", "\"cacheDuration\":\"1h\",", [1, 1, 1, 2]),
        ("Global", "\"cacheDuration\":\"1h\",", [1, 1, 1, 1]),
        ("Global", "\"cacheDuration\":\"0s\",", [1, 2, 3, 4]),
    ] {
        let dir = node(&format!("{READ_IMAGE}{}", answer(kind, duration)), ENTRY);
        let provider = open(&dir).unwrap().remove(0);
        assert!(provider.serves("a.example.io/x") && !provider.serves("example.io/x"));
        let first = provider.find("a.example.io/x").await.unwrap();
        assert_eq!(first, Some(basic("annpintle", "a.example.io/x")));
        let mut counts = vec![runs(&dir)];
        for image in ["a.example.io/x", "a.example.io/team/y", "b.example.io/x"] {
            assert!(provider.find(image).await.unwrap().is_some());
            counts.push(runs(&dir));
        }
        assert_eq!(counts, expected, "{kind} {duration}");
        let team = provider.find("a.example.io/team/y").await.unwrap();
        assert_eq!(team, Some(basic("team", "x")), "the more specific entry wins");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error_without_its_text() {
    let other_version = answer("Image", "").replace("k8s.io/v1", "k8s.io/v2");
    for (script, expected) in [
        ("echo secret; exit 1", "failed"),
        ("echo '{\"secret\"'", "no CredentialProviderResponse"),
        (
            "echo '{\"kind\":\"secret\",\"apiVersion\":\"v1\",\"cacheKeyType\":\"Image\"}'",
            "not a CredentialProviderResponse",
        ),
        (other_version.as_str(), "not a CredentialProviderResponse"),
        ("yes secret", "more than"),
    ] {
        let dir = node(script, ENTRY);
        let error = open(&dir).unwrap().remove(0).find("a.example.io/x").await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("ask") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn a_configuration_that_cannot_be_served_is_refused_by_field() {
    let replaced = |from: &str, to: &str| ENTRY.replace(from, to);
    for (entry, expected) in [
        (replaced("10m", "soon"), "defaultCacheDuration"),
        (replaced("name: ask", "name: ../ask"), "name"),
        (replaced("name: ask", "name: none"), "no program"),
        (replaced("io/v1\n", "io/v7\n"), "apiVersion"),
        (replaced("['*.example.io', 'other.io:5000/team']", "[]"), "matchImages"),
        (replaced("'*.example.io'", "'a:b:c'"), "matchImages"),
        (replaced("args", "arguments"), "arguments"),
        (format!("{ENTRY}  tokenAttributes: {{serviceAccountTokenAudience: x}}\n"), "tokenAttributes"),
        (format!("{ENTRY}{ENTRY}"), "twice"),
    ] {
        let error = open(&node("", &entry)).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(expected), "{error}");
    }
}
