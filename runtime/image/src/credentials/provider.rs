//! Kubernetes' credential providers: programs that are asked for the credentials of an image.
//!
//! In: the kubelet's `CredentialProviderConfig`, an image. Out: credentials, as `credentialprovider.kubelet.k8s.io/v1` defines
//! the exchange: a request on the program's input, an answer on its output. Answers are kept as long as they say. Tokens of
//! service accounts are not to be had here, so that a provider that wants one is refused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::matching::ImagePattern;
use crate::hosts::read_bounded;
use crate::program::Program;
use crate::{Auth, Error, go_duration};

const CONFIG_GROUP: &str = "kubelet.config.k8s.io/";
const EXCHANGE: [&str; 2] =
    ["credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1"];
/// The kubelet gives a minute; a pull's answer, of which this is a part, has that in all.
const LIMIT: Duration = Duration::from_secs(45);
/// Answers kept of one provider, and entries of an answer.
const KEPT: usize = 256;
const ENTRIES: usize = 256;

#[derive(Debug)]
pub(crate) struct Provider {
    name: String,
    program: PathBuf,
    exchange: String,
    patterns: Vec<ImagePattern>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    default_duration: Duration,
    kept: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    until: Instant,
    auths: Vec<(String, Auth)>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("until", &self.until).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigFile {
    api_version: String,
    kind: String,
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderEntry {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    kind: String,
    api_version: String,
    cache_key_type: CacheKey,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, UserAndPassword>>,
}

#[derive(Deserialize)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

#[derive(Deserialize)]
struct UserAndPassword {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Reads the configuration; the programs must be there.
pub(crate) fn read(file: &Path, programs: &Path) -> Result<Vec<Provider>, Error> {
    let wrong = |reason: String| Error::Config { path: file.to_owned(), reason };
    let text =
        String::from_utf8(read_bounded(file).map_err(wrong)?).map_err(|_| wrong("it is not UTF-8".into()))?;
    let config: ConfigFile = serde_saphyr::from_str(&text).map_err(|e| {
        let e = e.without_snippet();
        wrong(e.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    })?;
    if config.kind != "CredentialProviderConfig" || !config.api_version.starts_with(CONFIG_GROUP) {
        return Err(wrong(format!(
            "{} {} is not a CredentialProviderConfig",
            config.api_version, config.kind
        )));
    }
    if config.providers.is_empty() {
        return Err(wrong("providers: there is none".into()));
    }
    let mut names = HashSet::new();
    let mut providers = Vec::new();
    for entry in config.providers {
        let name = entry.name.clone();
        if !names.insert(name.clone()) {
            return Err(wrong(format!("providers: {name:?} is there twice")));
        }
        providers.push(Provider::new(entry, programs).map_err(|e| wrong(format!("provider {name:?}: {e}")))?);
    }
    Ok(providers)
}

impl Provider {
    fn new(entry: ProviderEntry, programs: &Path) -> Result<Self, String> {
        let name = entry.name;
        if name.is_empty() || name.contains(['/', ' ']) || matches!(name.as_str(), "." | "..") {
            return Err("name: it is not the name of a program".into());
        }
        if !EXCHANGE.contains(&entry.api_version.as_str()) {
            return Err(format!("apiVersion: {:?} is none of {}", entry.api_version, EXCHANGE.join(", ")));
        }
        if entry.token_attributes.is_some() {
            return Err("tokenAttributes: tokens of service accounts are not supported".into());
        }
        if entry.match_images.is_empty() {
            return Err("matchImages: there is none".into());
        }
        let patterns = entry.match_images.iter().map(|pattern| ImagePattern::new(pattern));
        let program = programs.join(&name);
        if !program.is_file() {
            return Err(format!("there is no program {}", program.display()));
        }
        let duration = go_duration::parse(&entry.default_cache_duration);
        Ok(Self {
            program,
            exchange: entry.api_version,
            patterns: patterns.collect::<Result<_, _>>().map_err(|e| format!("matchImages: {e}"))?,
            args: entry.args.unwrap_or_default(),
            env: entry.env.unwrap_or_default().into_iter().map(|v| (v.name, v.value)).collect(),
            default_duration: duration.map_err(|e| format!("defaultCacheDuration: {e}"))?,
            kept: Mutex::default(),
            name,
        })
    }

    pub(crate) fn serves(&self, image: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.fits(image))
    }

    pub(crate) async fn find(&self, image: &str) -> Result<Option<Auth>, Error> {
        if let Some(auths) = self.kept(image) {
            return Ok(select(&auths, image));
        }
        let failed = |reason: String| Error::Credentials {
            from: format!("credential provider {}", self.name),
            reason,
        };
        let answer = self.ask(image).await.map_err(failed)?;
        let duration = answer.cache_duration.as_deref().map(go_duration::parse).transpose();
        let duration =
            duration.map_err(|e| failed(format!("cacheDuration: {e}")))?.unwrap_or(self.default_duration);
        let auths: Vec<_> = answer
            .auth
            .unwrap_or_default()
            .into_iter()
            .take(ENTRIES)
            .map(|(key, one)| (key, Auth::Basic { username: one.username, password: one.password }))
            .collect();
        let found = select(&auths, image);
        if !duration.is_zero() {
            self.keep(&answer.cache_key_type, image, duration, auths);
        }
        Ok(found)
    }

    async fn ask(&self, image: &str) -> Result<Answer, String> {
        let request = serde_json::json!({
            "apiVersion": self.exchange, "kind": "CredentialProviderRequest", "image": image,
        });
        let program = Program {
            path: self.program.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            input: request.to_string().into_bytes(),
        };
        let output = program.run(LIMIT).await?;
        if !output.status.success() {
            return Err(format!("it failed ({})", output.status));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|e| {
            format!("its answer is no CredentialProviderResponse, at line {} column {}", e.line(), e.column())
        })?;
        if answer.kind != "CredentialProviderResponse" || answer.api_version != self.exchange {
            return Err(format!("its answer is not a CredentialProviderResponse of {}", self.exchange));
        }
        Ok(answer)
    }

    fn kept(&self, image: &str) -> Option<Vec<(String, Auth)>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let keys =
            [key(&CacheKey::Image, image), key(&CacheKey::Registry, image), key(&CacheKey::Global, image)];
        let valid = keys.iter().filter_map(|key| kept.get(key)).find(|kept| kept.until > Instant::now());
        valid.map(|kept| kept.auths.clone())
    }

    fn keep(&self, kind: &CacheKey, image: &str, duration: Duration, auths: Vec<(String, Auth)>) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.until > now);
        if kept.len() >= KEPT {
            kept.clear();
        }
        if let Some(until) = now.checked_add(duration) {
            kept.insert(key(kind, image), Kept { until, auths });
        }
    }
}

fn key(kind: &CacheKey, image: &str) -> String {
    match kind {
        CacheKey::Image => format!("image {image}"),
        CacheKey::Registry => format!("registry {}", image.split('/').next().unwrap_or(image)),
        CacheKey::Global => "global".into(),
    }
}

/// Of the entries that fit the one the kubelet tries first: the last in the order of their names.
fn select(auths: &[(String, Auth)], image: &str) -> Option<Auth> {
    let fits = |key: &str| ImagePattern::new(key).is_ok_and(|pattern| pattern.fits(image));
    let mut fitting: Vec<_> = auths.iter().filter(|(key, _)| fits(key)).collect();
    fitting.sort_by(|(a, _), (b, _)| b.cmp(a));
    fitting.first().map(|(_, auth)| auth.clone())
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
