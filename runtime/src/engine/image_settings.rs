//! How images are come by: whose credentials, which policy, what is pinned.
//!
//! In: paths and names of the node's configuration. Out: what a pull needs, read and checked once when the engine opens.

use std::{path::PathBuf, sync::Arc, time::Duration};

use pintle_image::{Keyring, KeyringConfig, Policy};

use super::error::{Error, Result};

/// What the node's configuration says about images, besides where registries are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// A file such as docker's `config.json`.
    pub auth_file: Option<PathBuf>,
    /// The kubelet's `CredentialProviderConfig`, and the directory of the programs it names.
    pub credential_providers: Option<PathBuf>,
    /// See above.
    pub credential_provider_programs: Option<PathBuf>,
    /// Which images may be taken, in the form of `containers-policy.json(5)`.
    pub policy: Option<PathBuf>,
    /// The program that checks signatures for it.
    pub verifier: Option<PathBuf>,
    /// Images that no garbage collection takes; a `*` at the end stands for anything.
    pub pinned: Vec<String>,
    /// The longest silence of a registry; absent: the image store's own.
    pub progress_deadline: Option<Duration>,
}

/// The same, read and checked.
#[derive(Debug)]
pub(crate) struct ImageSources {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) policy: Option<Policy>,
    pinned: Vec<String>,
    pub(crate) progress_deadline: Option<Duration>,
}

impl ImageSources {
    pub(crate) fn read(settings: &ImageSettings) -> Result<Self> {
        let keyring = Keyring::new(&KeyringConfig {
            docker_config: settings.auth_file.clone(),
            providers: settings.credential_providers.clone(),
            provider_programs: settings.credential_provider_programs.clone(),
        });
        let policy = match (&settings.policy, &settings.verifier) {
            (Some(file), verifier) => Some(Policy::new(file, verifier.as_deref())),
            (None, None) => None,
            (None, Some(_)) => {
                let text = "a program that verifies signatures is of no use without a policy";
                return Err(Error::InvalidArgument(text.to_owned()));
            }
        };
        Ok(Self {
            keyring: Arc::new(keyring.map_err(Error::image("reading credentials"))?),
            policy: policy.transpose().map_err(Error::image("reading the signature policy"))?,
            pinned: settings.pinned.clone(),
            progress_deadline: settings.progress_deadline,
        })
    }

    /// Whether one of an image's names is pinned.
    pub(crate) fn is_pinned(&self, names: &[String]) -> bool {
        let fits = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        self.pinned.iter().any(|pattern| names.iter().any(|name| fits(pattern, name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_by_one_of_its_names_or_the_beginning_of_one() {
        let pinned = vec!["docker.io/library/busybox:1".to_owned(), "registry.k8s.io/pause*".to_owned()];
        let sources = ImageSources::read(&ImageSettings { pinned, ..ImageSettings::default() }).unwrap();
        let is_pinned = |name: &str| sources.is_pinned(&["other:1".to_owned(), name.to_owned()]);
        assert!(is_pinned("docker.io/library/busybox:1") && is_pinned("registry.k8s.io/pause:3.9"));
        assert!(!is_pinned("docker.io/library/busybox:12") && !is_pinned("registry.k8s.io/etcd:1"));
    }

    #[test]
    fn files_that_are_not_there_keep_the_engine_from_opening() {
        let missing = || Some(PathBuf::from("/nowhere/file"));
        for settings in [
            ImageSettings { auth_file: missing(), ..ImageSettings::default() },
            ImageSettings { policy: missing(), ..ImageSettings::default() },
            ImageSettings { verifier: missing(), ..ImageSettings::default() },
            ImageSettings { credential_providers: missing(), ..ImageSettings::default() },
        ] {
            assert!(ImageSources::read(&settings).is_err(), "{settings:?}");
        }
    }
}
