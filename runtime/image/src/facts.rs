//! What the documents of one stored image say, read once and kept.
//!
//! In: the descriptor of a manifest or index in the content store. Out: [`Facts`]: id, configuration, layers, blobs. Immutable,
//! since content never changes under its digest.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::content::Content;
use crate::digest::Digest;
use crate::layers::Place;
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest, chain_ids, parse_config, select_platform};
use crate::{Error, Image};

/// An image as its documents describe it.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) config_digest: Digest,
    /// Digests by which the image may be asked for besides its id: its manifest's and its index'.
    pub(crate) documents: Vec<Digest>,
    pub(crate) config: ImageConfiguration,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) chain_ids: Vec<Digest>,
    /// Every blob the image needs.
    pub(crate) blobs: Vec<Digest>,
    annotations: BTreeMap<String, String>,
    size: u64,
}

impl Facts {
    /// Reads them from the store.
    pub(crate) fn read(content: &Content, top: &Descriptor) -> Result<Self, Error> {
        let mut documents = vec![top.digest.clone()];
        let mut size = 0;
        let mut read = |digest: &Digest| {
            let bytes = content.read(digest, limits::MANIFEST_BYTES)?;
            size += bytes.len() as u64;
            Document::parse(&bytes)
        };
        let manifest = match read(&top.digest)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(entries) => {
                let chosen = select_platform(&entries)?.digest.clone();
                let Document::Manifest(manifest) = read(&chosen)? else {
                    return Err(Error::unsupported("an index inside an index", "the store keeps one level"));
                };
                documents.push(chosen);
                manifest
            }
        };
        Self::from_documents(content, documents, (manifest, size))
    }

    fn from_documents(
        content: &Content,
        documents: Vec<Digest>,
        (manifest, documents_size): (Manifest, u64),
    ) -> Result<Self, Error> {
        let bytes = content.read(&manifest.config.digest, limits::CONFIG_BYTES)?;
        let checked = parse_config(&bytes, manifest.layers.len())?;
        let mut blobs = documents.clone();
        blobs.push(manifest.config.digest.clone());
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
        let layers_size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        Ok(Self {
            config_digest: manifest.config.digest,
            documents,
            config: checked.config,
            chain_ids: chain_ids(&checked.diff_ids),
            diff_ids: checked.diff_ids,
            layers: manifest.layers,
            blobs,
            annotations: within(limits::ANNOTATION_BYTES, manifest.annotations.unwrap_or_default()),
            size: documents_size + bytes.len() as u64 + layers_size,
        })
    }

    /// `sha256:<config digest>`.
    pub(crate) fn id(&self) -> String {
        self.config_digest.to_string()
    }

    /// Where each layer belongs, lowest first.
    pub(crate) fn places(&self) -> Vec<Place> {
        places(&self.diff_ids)
    }

    /// The image without names.
    pub(crate) fn image(&self) -> Image {
        Image {
            id: self.id(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size: self.size,
            config: self.config.clone(),
            chain_ids: self.chain_ids.iter().map(ToString::to_string).collect(),
            annotations: self.annotations.clone(),
        }
    }
}

/// As many annotations, in their order, as there is room for: a list of all images carries them.
fn within(mut room: usize, annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let fits = |(key, value): &(String, String)| {
        let left = room.checked_sub(key.len() + value.len());
        room = left.unwrap_or_default();
        left.is_some()
    };
    annotations.into_iter().take_while(fits).collect()
}

/// Where each layer belongs, lowest first.
pub(crate) fn places(diff_ids: &[Digest]) -> Vec<Place> {
    let chain = chain_ids(diff_ids);
    let place = |(i, diff_id): (usize, &Digest)| Place {
        diff_id: diff_id.clone(),
        chain_id: chain[i].clone(),
        below: chain[..i].to_vec(),
    };
    diff_ids.iter().enumerate().map(place).collect()
}
