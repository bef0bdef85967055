//! Who we are at a registry, when the caller of a pull did not say: a docker `config.json`, and Kubernetes' credential providers.
//!
//! In: files of the node's configuration, an image. Out: credentials. Nothing is looked up before a registry asks for it. What
//! is found is kept as long as a provider allows and is never part of an error or of the log.

mod docker_config;
mod matching;
mod provider;

use std::path::PathBuf;
use std::sync::Arc;

use crate::hosts::Host;
use crate::reference::Reference;
use crate::{Auth, Error, PullOptions};
use docker_config::DockerConfig;
use provider::Provider;

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub struct KeyringConfig {
    /// A file such as docker's `config.json`; it is read at each use.
    pub docker_config: Option<PathBuf>,
    /// A `CredentialProviderConfig` of the kubelet's.
    pub providers: Option<PathBuf>,
    /// Where the programs are that it names; docker's helpers are looked for there too.
    pub provider_programs: Option<PathBuf>,
}

/// The node's own credentials.
#[derive(Debug, Default)]
pub struct Keyring {
    docker_config: Option<DockerConfig>,
    providers: Vec<Provider>,
}

impl Keyring {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the file and the field.
    pub fn new(config: &KeyringConfig) -> Result<Self, Error> {
        let programs = &config.provider_programs;
        let docker_config =
            config.docker_config.as_ref().map(|path| DockerConfig::new(path.clone(), programs.clone()));
        if let Some(file) = &docker_config {
            file.check()?;
        }
        let providers = match (&config.providers, &config.provider_programs) {
            (None, _) => Vec::new(),
            (Some(file), Some(programs)) => provider::read(file, programs)?,
            (Some(file), None) => {
                let reason = "the directory of its programs is not configured".to_owned();
                return Err(Error::Config { path: file.clone(), reason });
            }
        };
        Ok(Self { docker_config, providers })
    }

    /// Credentials for an image, given as `registry/repository`: those of the file, else those of the first provider that
    /// has some. A source that fails is told only if no other has any.
    async fn find(&self, image: &str) -> Result<Option<Auth>, Error> {
        let mut failed = None;
        if let Some(file) = &self.docker_config {
            match file.find(image).await {
                Ok(Some(auth)) => return Ok(Some(auth)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        for provider in self.providers.iter().filter(|provider| provider.serves(image)) {
            match provider.find(image).await {
                Ok(Some(auth)) => return Ok(Some(auth)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// Who we are at one host.
#[derive(Debug)]
pub(crate) enum Login {
    /// The caller said so.
    Given(Option<Auth>),
    /// Whoever the node is for this image.
    Keyring { keyring: Arc<Keyring>, image: String },
}

impl Login {
    /// The caller's credentials are for the registry, or for the server they name, and for nobody else; a mirror is asked
    /// with what the node has for the mirror.
    pub(crate) fn at(host: &Host, reference: &Reference, opts: &PullOptions) -> Self {
        let is_meant = match opts.auth_server.as_deref().map(server_name) {
            Some(server) if host.is_mirror => server == host.authority,
            Some(server) => server == host.authority || server == reference.registry,
            None => !host.is_mirror,
        };
        let image = if host.is_mirror {
            format!("{}/{}", host.authority, reference.repository)
        } else {
            reference.name()
        };
        match (&opts.auth, &opts.keyring) {
            (Some(auth), _) if is_meant => Self::Given(Some(auth.clone())),
            (_, Some(keyring)) => Self::Keyring { keyring: Arc::clone(keyring), image },
            (_, None) => Self::Given(None),
        }
    }

    pub(crate) async fn credentials(&self) -> Result<Option<Auth>, Error> {
        match self {
            Self::Given(auth) => Ok(auth.clone()),
            Self::Keyring { keyring, image } => keyring.find(image).await,
        }
    }
}

/// The registry a URL of docker's means: without scheme and version, and by its usual name.
fn server_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let name = ["/v1", "/v2"].iter().find_map(|version| rest.strip_suffix(version)).unwrap_or(rest);
    match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_server_they_name_and_to_no_mirror_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docker.io")).unwrap();
        std::fs::write(dir.path().join("docker.io/hosts.toml"), "[host.\"https://m.example\"]").unwrap();
        let hosts = crate::hosts::hosts_for("docker.io", Some(dir.path())).unwrap();
        let reference = Reference::parse("busybox").unwrap();
        let auth = || Some(Auth::Token("t".into()));
        let given = |server: Option<&str>| {
            let auth_server = server.map(str::to_owned);
            let opts = PullOptions { auth: auth(), auth_server, ..PullOptions::default() };
            hosts
                .iter()
                .map(|h| matches!(Login::at(h, &reference, &opts), Login::Given(Some(_))))
                .collect::<Vec<_>>()
        };
        assert_eq!(given(None), [false, true]);
        assert_eq!(given(Some("https://index.docker.io/v1/")), [false, true]);
        assert_eq!(given(Some("m.example")), [true, false]);
        assert_eq!(given(Some("evil.example")), [false, false]);
    }

    #[test]
    fn a_server_has_one_name_however_it_is_written() {
        for (url, name) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("http://a.example:5000/v2/", "a.example:5000"),
            ("a.example/team", "a.example/team"),
        ] {
            assert_eq!(server_name(url), name);
        }
    }
}
