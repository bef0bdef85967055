//! Manifests, indexes and configurations: parsing with bounds, platform choice, chain ids.
//!
//! In: JSON bytes of OCI or Docker schema 2 documents. Out: checked types. Pure; it reads no files and makes no requests.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::digest::{Digest, shorten};
use crate::limits;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPES: [&str; 9] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// The machine an entry of an index is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

/// An image manifest or an index of several.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are one or two of them at a time")]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// The manifest of one image for one platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Parses a manifest or an index and checks its bounds.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |reason: String| Error::corrupt("manifest", reason);
        crate::content::check_small("manifest", bytes, limits::MANIFEST_BYTES)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| corrupt(shorten(&e.to_string())))?;
        if raw.schema_version != 2 {
            let what = format!("manifest schema version {}", raw.schema_version);
            let reason =
                "only 2 is; an image of Docker's first schema has to be pushed anew by a newer client";
            return Err(Error::unsupported(what, reason));
        }
        let media_type = raw.media_type.as_deref();
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) if !matches!(media_type, Some(OCI_INDEX | DOCKER_INDEX)) => {
                let media_type = raw.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
                let annotations = raw.annotations;
                let manifest = Manifest { schema_version: 2, media_type, config, layers, annotations };
                manifest.check().map(|()| Self::Manifest(manifest))
            }
            (None, None, Some(manifests)) if !matches!(media_type, Some(OCI_MANIFEST | DOCKER_MANIFEST)) => {
                if manifests.len() > limits::INDEX_ENTRIES {
                    let limit = format!("{} entries", limits::INDEX_ENTRIES);
                    return Err(Error::TooLarge { what: "image index".into(), limit });
                }
                Ok(Self::Index(manifests))
            }
            _ => Err(corrupt("it is neither an image manifest nor an index".into())),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), Error> {
        if !matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST) {
            return Err(Error::unsupported(
                format!("manifest type {}", shorten(&self.media_type)),
                "not an image",
            ));
        }
        if !matches!(self.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            let what = format!("configuration type {}", shorten(&self.config.media_type));
            return Err(Error::unsupported(what, "it is an artifact and not a container image"));
        }
        if self.layers.len() > limits::LAYERS {
            return Err(Error::TooLarge {
                what: "image".into(),
                limit: format!("{} layers", limits::LAYERS),
            });
        }
        if self.config.size > limits::CONFIG_BYTES {
            let limit = format!("{} bytes", limits::CONFIG_BYTES);
            return Err(Error::TooLarge { what: "image configuration".into(), limit });
        }
        for layer in &self.layers {
            if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
                return Err(Error::unsupported(
                    format!("layer type {}", shorten(&layer.media_type)),
                    "unknown",
                ));
            }
            if layer.size > limits::BLOB_BYTES {
                let limit = format!("{} bytes", limits::BLOB_BYTES);
                return Err(Error::TooLarge { what: format!("layer {}", layer.digest), limit });
            }
        }
        Ok(())
    }
}

/// This machine's name for its processor in image indexes.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// How well an entry's variant suits this machine: the lower the better, none if not at all. Newer processors run what is for
/// older ones of their kind, and one that says nothing is for all. Beyond the least of an architecture nothing is taken for
/// granted, but what this processor says it has.
fn rank(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let variant = variant.unwrap_or_default();
    let level = |name: &str| name.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
    match (architecture, variant) {
        ("amd64" | "arm64", "") => Some(100),
        ("amd64", _) => level(variant).filter(|n| (1..=amd64_level()).contains(n)).map(|n| 200 - n),
        ("arm64", "v8") => Some(99),
        // Without a variant it is v7 to containerd and Docker.
        ("arm", "" | "v7") => Some(0),
        ("arm", "v6") => Some(1),
        ("arm", "v5") => Some(2),
        ("arm64" | "arm", _) => None,
        (_, variant) => variant.is_empty().then_some(0),
    }
}

/// The level of this processor in the x86-64 psABI's list.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    1 + u32::from(v2) + u32::from(v3) + u32::from(v4)
}

/// Elsewhere nothing is for amd64.
#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u32 {
    0
}

/// Chooses the entry for linux on this machine: the plain one, else the best of those whose variant it can run. An entry that
/// names no platform serves if it is the only one.
pub(crate) fn select_platform(entries: &[Descriptor]) -> Result<&Descriptor, Error> {
    let suits = |d: &Descriptor| {
        let platform = d.platform.as_ref()?;
        let fits = platform.os == "linux" && platform.architecture == host_architecture();
        fits.then(|| rank(&platform.architecture, platform.variant.as_deref())).flatten()
    };
    let ranked = entries.iter().filter_map(|d| suits(d).map(|rank| (rank, d)));
    if let Some((_, found)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(found);
    }
    match entries {
        [only] if only.platform.is_none() => Ok(only),
        _ => {
            let offered: Vec<_> = entries
                .iter()
                .filter_map(|d| d.platform.as_ref())
                .take(20)
                .map(ToString::to_string)
                .collect();
            let reason = if offered.is_empty() {
                "the image is offered for nothing".to_owned()
            } else {
                format!("the image is offered for {}", offered.join(", "))
            };
            Err(Error::unsupported(format!("platform linux/{}", host_architecture()), shorten(&reason)))
        }
    }
}

/// A checked configuration with what the store needs of it.
#[derive(Debug)]
pub(crate) struct CheckedConfig {
    pub(crate) config: ImageConfiguration,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Parses a configuration and checks that it fits the manifest and this machine.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<CheckedConfig, Error> {
    let what = "image configuration";
    crate::content::check_small(what, bytes, limits::CONFIG_BYTES)?;
    // Not its own reader, whose error keeps the reason to itself.
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|e| Error::corrupt(what, shorten(&e.to_string())))?;
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if os != "linux" || architecture != host_architecture() {
        let reason = format!("this machine runs linux/{} images", host_architecture());
        return Err(Error::unsupported(
            format!("an image for {}/{}", shorten(&os), shorten(&architecture)),
            reason,
        ));
    }
    let diff_ids: Vec<_> =
        config.rootfs().diff_ids().iter().map(|id| Digest::parse(id)).collect::<Result<_, _>>()?;
    if diff_ids.len() != layers {
        let reason = format!("it names {} layers, the manifest {layers}", diff_ids.len());
        return Err(Error::corrupt(what, reason));
    }
    check_strings(&config)?;
    Ok(CheckedConfig { config, diff_ids })
}

/// What the kernel takes as a string cannot hold a zero byte, and a variable needs a name.
fn check_strings(config: &ImageConfiguration) -> Result<(), Error> {
    let Some(run) = config.config() else { return Ok(()) };
    let refuse =
        |field: &str, reason| Err(Error::corrupt("image configuration", format!("{field} {reason}")));
    let lists = [("Env", run.env()), ("Cmd", run.cmd()), ("Entrypoint", run.entrypoint())];
    let strings = [("User", run.user()), ("WorkingDir", run.working_dir())];
    let all = lists
        .iter()
        .flat_map(|(field, list)| list.iter().flatten().map(move |text| (field, text)))
        .chain(strings.iter().flat_map(|(field, text)| text.iter().map(move |text| (field, text))));
    for (field, text) in all {
        if text.contains('\0') {
            return refuse(field, "contains a zero byte");
        }
    }
    if run.env().iter().flatten().any(|variable| variable.starts_with('=')) {
        return refuse("Env", "has a variable without a name");
    }
    Ok(())
}

/// Chain ids of the layers, lowest first: the first is its diff id, each other the digest of `<chain below> <diff id>`.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<(&str, &str, Option<&str>)>, digest: &str) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(digest.as_bytes()),
            size: 1,
            annotations: None,
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(Into::into),
            }),
        }
    }

    #[test]
    fn the_host_platform_is_chosen_from_an_index() {
        let host = host_architecture();
        let entries = [
            entry(Some(("unknown", "unknown", None)), "attestation"),
            entry(Some(("linux", "s390x", None)), "other"),
            entry(Some(("linux", host, Some("v3"))), "newer"),
            entry(Some(("linux", host, None)), "right"),
        ];
        assert_eq!(select_platform(&entries).unwrap().digest, Digest::of(b"right"));
        assert!(matches!(select_platform(&entries[..2]), Err(Error::Unsupported { .. })));
        assert!(select_platform(&[entry(None, "only")]).is_ok());
    }

    #[test]
    fn the_best_variant_that_this_machine_runs_is_chosen_and_else_told_what_there_is() {
        assert_eq!(rank("amd64", Some("v5")), None);
        assert!(rank("amd64", None) < rank("amd64", Some("v1")) || amd64_level() == 0);
        assert!(rank("arm", Some("v7")) < rank("arm", Some("v6")) && rank("arm", Some("v8")).is_none());
        assert_eq!((rank("arm64", Some("v9")), rank("s390x", Some("z"))), (None, None));
        assert!(rank("arm64", Some("v8")) < rank("arm64", None));
        let entries = [
            entry(Some(("linux", "arm", Some("v6"))), "a"),
            entry(Some(("linux", "amd64", Some("v9"))), "b"),
        ];
        let error = select_platform(&entries).unwrap_err().to_string();
        assert!(error.contains("linux/arm/v6, linux/amd64/v9"), "{error}");
        let two = [
            entry(Some(("linux", "amd64", Some("v1"))), "v1"),
            entry(Some(("linux", "amd64", Some("v2"))), "v2"),
        ];
        if amd64_level() >= 2 {
            assert_eq!(select_platform(&two).unwrap().digest, Digest::of(b"v2"));
        }
    }

    #[test]
    fn a_document_that_is_manifest_and_index_at_once_is_refused() {
        let d = serde_json::to_value(entry(None, "x")).unwrap();
        let both = serde_json::json!({"schemaVersion": 2, "config": d, "layers": [], "manifests": []});
        assert!(matches!(Document::parse(both.to_string().as_bytes()), Err(Error::Corrupt { .. })));
        let posing = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "manifests": []});
        assert!(matches!(Document::parse(posing.to_string().as_bytes()), Err(Error::Corrupt { .. })));
        let old = serde_json::json!({"schemaVersion": 1});
        assert!(matches!(Document::parse(old.to_string().as_bytes()), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn more_than_127_layers_are_refused() {
        let mut config = entry(None, "c");
        config.media_type = OCI_CONFIG.into();
        let layer = Descriptor { media_type: OCI_LAYER.into(), ..entry(None, "l") };
        let image = |n| {
            let value = serde_json::json!({"schemaVersion": 2, "config": config, "layers": vec![&layer; n]});
            Document::parse(value.to_string().as_bytes())
        };
        assert!(image(127).is_ok());
        assert!(matches!(image(128), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain, [a.clone(), Digest::of(format!("{a} {b}").as_bytes())]);
    }
}
