//! Credentials in docker's `config.json` (and podman's `auth.json`), and the helper programs that it names.
//!
//! In: the file, an image. Out: credentials. The file is read at each use, so that it may change. A helper is the program
//! `docker-credential-NAME`, beside the credential providers or in the PATH, asked by docker's protocol: `get`, the server's
//! name on its input, JSON as the answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::server_name;
use crate::digest::shorten;
use crate::hosts::read_bounded;
use crate::program::Program;
use crate::{Auth, Error};

const HELPER_LIMIT: Duration = Duration::from_secs(30);
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name with which a helper says that its secret is an identity token.
const IS_TOKEN: &str = "<token>";

#[derive(Debug)]
pub(crate) struct DockerConfig {
    path: PathBuf,
    /// Where helpers are besides the PATH.
    programs: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl DockerConfig {
    pub(crate) fn new(path: PathBuf, programs: Option<PathBuf>) -> Self {
        Self { path, programs }
    }

    /// Whether it can be read as it is now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let file = self.read()?;
        for (server, entry) in &file.auths {
            entry.auth().map_err(|reason| self.wrong(format!("auths: {server:?}: {reason}")))?;
        }
        Ok(())
    }

    /// The credentials for `registry/repository`: of the registry's own helper, of the entry whose path fits best, of the
    /// helper for all.
    pub(crate) async fn find(&self, image: &str) -> Result<Option<Auth>, Error> {
        let file = self.read()?;
        let registry = image.split('/').next().unwrap_or(image);
        let own = file.cred_helpers.iter().find(|(server, _)| server_name(server) == registry);
        if let Some((_, helper)) = own
            && let Some(auth) = self.ask(helper, registry).await?
        {
            return Ok(Some(auth));
        }
        let fits = |server: &str| image == server || image.starts_with(&format!("{server}/"));
        let entries = file.auths.iter().map(|(server, entry)| (server_name(server), entry));
        let mut fitting: Vec<_> = entries.filter(|(server, _)| fits(server)).collect();
        fitting.sort_by_key(|(server, _)| std::cmp::Reverse(server.len()));
        for (server, entry) in fitting {
            let auth = entry.auth().map_err(|reason| self.wrong(format!("auths: {server:?}: {reason}")))?;
            if auth.is_some() {
                return Ok(auth);
            }
        }
        match &file.creds_store {
            Some(helper) => self.ask(helper, registry).await,
            None => Ok(None),
        }
    }

    fn read(&self) -> Result<File, Error> {
        let bytes = read_bounded(&self.path).map_err(|reason| self.wrong(reason))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            // The parser's words may quote a value.
            let (line, column) = (e.line(), e.column());
            self.wrong(format!("it is not docker's configuration: line {line}, column {column}"))
        })
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Config { path: self.path.clone(), reason }
    }

    async fn ask(&self, helper: &str, registry: &str) -> Result<Option<Auth>, Error> {
        if helper.is_empty() || helper.contains('/') {
            return Err(self.wrong(format!("{:?} is not a helper's name", shorten(helper))));
        }
        let name = format!("docker-credential-{helper}");
        let failed = |reason: String| Error::Credentials { from: name.clone(), reason };
        let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
        let beside = self.programs.as_ref().map(|dir| dir.join(&name)).filter(|path| path.is_file());
        let program = Program {
            path: beside.unwrap_or_else(|| PathBuf::from(&name)),
            args: vec!["get".into()],
            env: Vec::new(),
            input: server.as_bytes().to_vec(),
        };
        let output = program.run(HELPER_LIMIT).await.map_err(failed)?;
        if !output.status.success() {
            // A helper tells this on its standard output, and everything else too.
            if String::from_utf8_lossy(&output.stdout).contains("credentials not found") {
                return Ok(None);
            }
            return Err(failed(format!("it failed ({}) for {server}", output.status)));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .map_err(|e| failed(format!("its answer is not docker's, at column {}", e.column())))?;
        Ok(match answer {
            Answer { secret, .. } if secret.is_empty() => None,
            Answer { username, secret } if username == IS_TOKEN => Some(Auth::Identity(secret)),
            Answer { username, secret } => Some(Auth::Basic { username, password: secret }),
        })
    }
}

impl Entry {
    /// `None` for the empty entry that docker leaves where a helper has the secret.
    fn auth(&self) -> Result<Option<Auth>, String> {
        Ok(if !self.registrytoken.is_empty() {
            Some(Auth::Token(self.registrytoken.clone()))
        } else if !self.identitytoken.is_empty() {
            Some(Auth::Identity(self.identitytoken.clone()))
        } else if !self.auth.is_empty() {
            Some(Auth::decode(&self.auth)?)
        } else if !self.username.is_empty() {
            Some(Auth::Basic { username: self.username.clone(), password: self.password.clone() })
        } else {
            None
        })
    }
}

impl Auth {
    /// `user:password` in base64, as docker and CRI have it.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn decode(text: &str) -> Result<Self, String> {
        let bad = || "auth is not base64 of user:password".to_owned();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let (username, password) = text.split_once(':').ok_or_else(bad)?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Self::Basic { username: username.to_owned(), password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(text: &str, image: &str) -> Result<Option<Auth>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        DockerConfig::new(path, None).find(image).await
    }

    fn basic(username: &str) -> Option<Auth> {
        Some(Auth::Basic { username: username.into(), password: "p:q".into() })
    }

    #[tokio::test]
    async fn the_entry_whose_path_fits_best_is_taken() {
        // u:p:q and v:p:q
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "http://a.example:5000/v2/": {"username": "u", "password": "p:q", "email": "x"},
            "a.example:5000/team": {"auth": "djpwOnE="},
            "b.example": {"identitytoken": "idt", "auth": "PHRva2VuPjo="}, "c.example": {"registrytoken": "rt"},
            "d.example": {}}, "HttpHeaders": {"x": "y"}}"#;
        for (image, auth) in [
            ("docker.io/library/busybox", basic("u")),
            ("a.example:5000/x", basic("u")),
            ("a.example:5000/team/x", basic("v")),
            ("a.example:5000/teamwork", basic("u")),
            ("b.example/x", Some(Auth::Identity("idt".into()))),
            ("c.example/x", Some(Auth::Token("rt".into()))),
            ("d.example/x", None),
            ("a.example/x", None),
        ] {
            assert_eq!(find(file, image).await.unwrap(), auth, "{image}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_and_no_secret_is() {
        for (text, expected) in [
            (r#"{"auths": {"a.example": {"auth": "c2VjcmV0"}}}"#, "a.example"),
            (r#"{"auths": {"a.example": {"password": {"secret": 1}}}}"#, "line 1"),
            (r#"{"credsStore": "../../bin/secret-sh"}"#, "not a helper's name"),
            (r#"{"credsStore": "pintle-test-none"}"#, "cannot be started"),
        ] {
            let error = find(text, "a.example/x").await.unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("c2Vjc"), "{error}");
        }
    }
}
