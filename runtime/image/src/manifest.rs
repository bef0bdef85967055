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

/// An image manifest or an index of several.
#[derive(Debug)]
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses a manifest or an index and checks its bounds.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |reason: String| Error::corrupt("manifest", reason);
        crate::content::check_small("manifest", bytes, limits::MANIFEST_BYTES)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| corrupt(shorten(&e.to_string())))?;
        if raw.schema_version != 2 {
            return Err(Error::unsupported(
                format!("manifest schema version {}", raw.schema_version),
                "only 2 is",
            ));
        }
        let media_type = raw.media_type.as_deref();
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) if !matches!(media_type, Some(OCI_INDEX | DOCKER_INDEX)) => {
                let media_type = raw.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
                let manifest = Manifest { schema_version: 2, media_type, config, layers };
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

/// Chooses the entry for linux on this machine. An entry that names no platform serves if it is the only one.
pub(crate) fn select_platform(entries: &[Descriptor]) -> Result<&Descriptor, Error> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == host_architecture())
    };
    let is_base = |d: &&Descriptor| {
        let variant = d.platform.as_ref().and_then(|p| p.variant.as_deref());
        matches!(variant, None | Some("" | "v1" | "v8"))
    };
    if let Some(found) = entries.iter().find(|d| fits(d) && is_base(d)) {
        return Ok(found);
    }
    match entries {
        [only] if only.platform.is_none() => Ok(only),
        _ => {
            let offered: Vec<_> = entries
                .iter()
                .filter_map(|d| d.platform.as_ref())
                .take(20)
                .map(|p| format!("{}/{}", p.os, p.architecture))
                .collect();
            let reason = format!("the image is offered for {}", offered.join(", "));
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
