//! Which images may be taken: a policy file in the form of `containers-policy.json(5)`, and a program that checks signatures.
//!
//! In: the policy, an image's name, digest and manifest. Out: leave, or an error; everything that is not plainly allowed is
//! refused, a policy that cannot be read included. Of the form it knows `default` and the transports `docker` (pulls),
//! `docker-archive` and `oci-archive` (imports); of requirements `insecureAcceptAnything`, `reject`, and those about
//! signatures (`signedBy`, `sigstoreSigned`), which it leaves to the verifier: a program with the arguments image, digest,
//! file of the manifest, and the requirement as JSON on its input, whose exit code 0 means that it is met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::digest::{Digest, shorten};
use crate::hosts::read_bounded;
use crate::program::Program;
use crate::reference::Reference;

const LIMIT: Duration = Duration::from_secs(60);

/// A policy and the program that checks signatures for it.
#[derive(Debug, Clone)]
pub struct Policy {
    file: PathBuf,
    verifier: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Value")]
enum Requirement {
    Accept,
    Reject,
    /// About signatures; the verifier understands it.
    Signed(Value),
}

impl TryFrom<Value> for Requirement {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        match (value.get("type").and_then(Value::as_str), fields) {
            (Some("insecureAcceptAnything"), 1) => Ok(Self::Accept),
            (Some("reject"), 1) => Ok(Self::Reject),
            (Some("signedBy" | "sigstoreSigned"), _) => Ok(Self::Signed(value)),
            (Some(kind), _) => Err(format!("a requirement of type {:?} is not known", shorten(kind))),
            (None, _) => Err("a requirement has no type".into()),
        }
    }
}

/// What is to be taken.
pub(crate) struct Candidate<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) digest: &'a Digest,
    /// The file with the manifest or index of that digest.
    pub(crate) manifest: PathBuf,
}

impl Policy {
    /// Reads the policy once, to tell at the start what is wrong with it. It is read again at each use.
    ///
    /// # Errors
    /// [`Error::Config`], also when signatures are asked for and there is no verifier.
    pub fn new(file: &Path, verifier: Option<&Path>) -> Result<Self, Error> {
        let policy = Self { file: file.to_owned(), verifier: verifier.map(Path::to_owned) };
        policy.read().map_err(|reason| Error::Config { path: file.to_owned(), reason })?;
        Ok(policy)
    }

    /// Whether the image may be pulled.
    pub(crate) async fn check_pull(&self, candidate: &Candidate<'_>) -> Result<(), Error> {
        let refuse = |reason: String| Error::Refused { image: candidate.reference.to_string(), reason };
        let file = self.read().map_err(|e| refuse(format!("{}: {e}", self.file.display())))?;
        for requirement in file.requirements(candidate.reference) {
            match requirement {
                Requirement::Accept => {}
                Requirement::Reject => return Err(refuse("it is rejected by name".into())),
                Requirement::Signed(wanted) => self.verify(candidate, wanted).await.map_err(refuse)?,
            }
        }
        Ok(())
    }

    /// Whether an archive may be imported. There is no registry to ask for the signatures of what is in it.
    pub(crate) fn check_import(&self) -> Result<(), Error> {
        let refuse = |reason: String| Error::Refused { image: "images of archives".into(), reason };
        let file = self.read().map_err(|e| refuse(format!("{}: {e}", self.file.display())))?;
        let archives = ["docker-archive", "oci-archive"];
        let all = archives.iter().flat_map(|name| {
            file.transports.get(*name).and_then(|scopes| scopes.get("")).unwrap_or(&file.default)
        });
        for requirement in all {
            match requirement {
                Requirement::Accept => {}
                Requirement::Reject => return Err(refuse("they are rejected".into())),
                Requirement::Signed(_) => {
                    return Err(refuse(
                        "signatures are wanted, and an archive has none that can be checked".into(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn read(&self) -> Result<File, String> {
        let file: File =
            serde_json::from_slice(&read_bounded(&self.file)?).map_err(|e| shorten(&e.to_string()))?;
        let lists = || file.transports.values().flat_map(BTreeMap::values).chain([&file.default]);
        if lists().any(Vec::is_empty) {
            return Err("a list of requirements is empty".into());
        }
        if self.verifier.is_none() && lists().flatten().any(|r| matches!(r, Requirement::Signed(_))) {
            return Err("it asks for signatures, and there is no program to verify them".into());
        }
        Ok(file)
    }

    async fn verify(&self, candidate: &Candidate<'_>, wanted: &Value) -> Result<(), String> {
        let path = self.verifier.clone().ok_or("there is no program to verify signatures")?;
        let program = Program {
            path,
            args: vec![
                candidate.reference.to_string(),
                candidate.digest.to_string(),
                candidate.manifest.display().to_string(),
            ],
            env: Vec::new(),
            input: wanted.to_string().into_bytes(),
        };
        let output = program.run(LIMIT).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said = if said.is_empty() { output.status.to_string() } else { shorten(&said) };
        Err(format!("the verifier does not accept {}: {said}", candidate.digest))
    }
}

impl File {
    /// The requirements of the narrowest scope that holds the image.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let scopes = self.transports.get("docker");
        let found = scopes.and_then(|scopes| names_of(reference).iter().find_map(|name| scopes.get(name)));
        found.unwrap_or(&self.default)
    }
}

/// The scopes an image is in, the narrowest first.
fn names_of(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut names = Vec::new();
    names.extend(reference.digest.as_ref().map(|digest| format!("{name}@{digest}")));
    names.extend(reference.tag.as_ref().map(|tag| format!("{name}:{tag}")));
    let mut rest = name.as_str();
    loop {
        names.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    let mut host = rest;
    while let Some((_, above)) = host.split_once('.') {
        names.push(format!("*.{above}"));
        host = above;
    }
    names.push(String::new());
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn check(policy: &str, image: &str, verifier: Option<&str>) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let (file, program) = (dir.path().join("policy.json"), dir.path().join("verify"));
        std::fs::write(&file, policy).unwrap();
        if let Some(script) = verifier {
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let policy = Policy::new(&file, verifier.map(|_| program.as_path())).map_err(|e| e.to_string())?;
        let (reference, digest) = (Reference::parse(image).unwrap(), Digest::of(b"m"));
        let candidate = Candidate { reference: &reference, digest: &digest, manifest: file };
        policy.check_pull(&candidate).await.map_err(|e| e.to_string())
    }

    const SCOPES: &str = r#"{"default": [{"type": "reject"}], "transports": {"docker": {
        "a.example": [{"type": "insecureAcceptAnything"}], "a.example/bad": [{"type": "reject"}],
        "a.example/bad/good": [{"type": "insecureAcceptAnything"}], "a.example/bad/good:evil": [{"type": "reject"}],
        "*.b.example": [{"type": "insecureAcceptAnything"}], "x.b.example": [{"type": "reject"}]}}}"#;

    #[tokio::test]
    async fn the_narrowest_scope_decides_and_the_default_where_there_is_none() {
        for (image, allowed) in [
            ("a.example/x", true),
            ("a.example/bad:1", false),
            ("a.example/badness", true),
            ("a.example/bad/good:1", true),
            ("a.example/bad/good:evil", false),
            ("y.b.example/x", true),
            ("z.y.b.example/x", true),
            ("x.b.example/x", false),
            ("b.example/x", false),
            ("busybox", false),
        ] {
            assert_eq!(check(SCOPES, image, None).await.is_ok(), allowed, "{image}");
        }
    }

    #[tokio::test]
    async fn a_verifier_decides_about_signatures_and_whatever_it_does_but_accept_refuses() {
        let policy = r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}"#;
        let proper = r#"test "$1" = docker.io/library/a:1 && test -s "$3" && grep -q '"keyPath":"/k"' && test ${#2} = 71"#;
        assert_eq!(check(policy, "a:1", Some(proper)).await, Ok(()));
        for (script, expected) in [
            ("echo no key >&2; exit 1", "no key"),
            ("exit 7", "exit status: 7"),
            ("kill -9 $$", "signal"),
            ("yes", "more than"),
        ] {
            let error = check(policy, "a:1", Some(script)).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = check(policy, "a:1", None).await.unwrap_err();
        assert!(error.contains("no program to verify"), "{error}");
    }

    #[tokio::test]
    async fn a_policy_that_is_not_understood_allows_nothing() {
        for (policy, expected) in [
            ("{}", "default"),
            (r#"{"default": []}"#, "empty"),
            (r#"{"default": [{"type": "insecureAcceptAnything", "unless": "x"}]}"#, "not known"),
            (r#"{"default": [{"type": "trustMe"}]}"#, "trustMe"),
            (r#"{"default": [{}]}"#, "no type"),
            (r#"{"default": [{"type": "reject"}], "extra": 1}"#, "extra"),
        ] {
            let error = check(policy, "a:1", None).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_policy_that_vanishes_or_breaks_refuses_and_archives_are_bound_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.json");
        std::fs::write(&file, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let policy = Policy::new(&file, None).unwrap();
        policy.check_import().unwrap();
        std::fs::write(&file, r#"{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}"#).unwrap();
        assert!(matches!(policy.check_import(), Err(Error::Refused { .. })));
        std::fs::remove_file(&file).unwrap();
        let (reference, digest) = (Reference::parse("a").unwrap(), Digest::of(b"m"));
        let candidate = Candidate { reference: &reference, digest: &digest, manifest: file.clone() };
        assert!(matches!(policy.check_pull(&candidate).await, Err(Error::Refused { .. })));
    }
}
