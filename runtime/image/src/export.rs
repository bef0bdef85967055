//! Writes images as an archive that everybody reads: an OCI image layout that is also what `docker save` writes.
//!
//! In: images of the store. Out: a tar stream. Blobs are written as they are stored, once each, and hashed on their way: an
//! archive that ends without an error is whole. Of an image for several machines it has this machine's. The same images give
//! the same bytes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use serde_json::json;

use crate::Error;
use crate::digest::{Digest, HashingReader};
use crate::facts::Facts;
use crate::index::{IMAGE_NAME, REF_NAME};
use crate::manifest::{Document, OCI_INDEX};
use crate::reference::Reference;
use crate::store::Store;

/// The most images of one archive; as many as `import` takes.
const IMAGES: usize = 1024;

/// One image of the archive.
struct Exported {
    facts: Arc<Facts>,
    /// Names with tags.
    names: Vec<String>,
}

/// Writes the images with these names or ids.
pub(crate) fn export(store: &Arc<Store>, wanted: &[String], to: impl Write) -> Result<(), Error> {
    // Keeps the collector away from blobs whose image is removed meanwhile.
    let busy = store.busy();
    let result = collect(store, wanted).and_then(|images| write(store, &images, to));
    drop(busy);
    store.collect()?;
    result
}

fn collect(store: &Store, wanted: &[String]) -> Result<Vec<Exported>, Error> {
    if wanted.is_empty() || wanted.len() > IMAGES {
        return Err(Error::TooLarge { what: "archive".into(), limit: format!("1 to {IMAGES} images") });
    }
    let mut images: BTreeMap<String, Exported> = BTreeMap::new();
    for name in wanted {
        let image = store.get(name)?.ok_or_else(|| Error::not_found(format!("image {name}")))?;
        // By a tag: that name. By id or digest: all names it has.
        let stored = Reference::parse(name).map(|reference| reference.stored()).unwrap_or_default();
        let names = if image.repo_tags.contains(&stored) { vec![stored] } else { image.repo_tags };
        let facts = store.facts_of(&image.id)?;
        let exported = images.entry(image.id).or_insert_with(|| Exported { facts, names: Vec::new() });
        exported.names.extend(names);
        exported.names.sort();
        exported.names.dedup();
    }
    Ok(images.into_values().collect())
}

fn write(store: &Store, images: &[Exported], to: impl Write) -> Result<(), Error> {
    let mut archive = Archive { tar: tar::Builder::new(to) };
    archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut blobs = BTreeMap::new();
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for image in images {
        let manifest = image.manifest();
        let bytes = store.content.read(manifest, crate::limits::MANIFEST_BYTES)?;
        let Document::Manifest(parsed) = Document::parse(&bytes)? else {
            return Err(Error::corrupt(format!("manifest {manifest}"), "it is an index"));
        };
        let descriptor = |annotations: serde_json::Value| json!({"mediaType": parsed.media_type, "digest": manifest, "size": bytes.len(), "annotations": annotations});
        index.extend(image.names.iter().map(|name| descriptor(json!({REF_NAME: name, IMAGE_NAME: name}))));
        if image.names.is_empty() {
            index.push(descriptor(json!({})));
        }
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        docker.push(json!({
            "Config": path(&image.facts.config_digest),
            "RepoTags": image.names,
            "Layers": image.facts.layers.iter().map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
        }));
        blobs.insert(manifest.clone(), ());
        blobs.insert(image.facts.config_digest.clone(), ());
        blobs.extend(image.facts.layers.iter().map(|layer| (layer.digest.clone(), ())));
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
    archive.document("index.json", index.to_string().as_bytes())?;
    archive.document("manifest.json", json!(docker).to_string().as_bytes())?;
    blobs.keys().try_for_each(|digest| archive.blob(store, digest))?;
    archive.finish()
}

impl Exported {
    /// The manifest for this machine: the last of the documents that lead to it.
    fn manifest(&self) -> &Digest {
        self.facts.documents.last().unwrap_or(&self.facts.config_digest)
    }
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Archive<W> {
    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.file(name, bytes.len() as u64, bytes)
    }

    fn blob(&mut self, store: &Store, digest: &Digest) -> Result<(), Error> {
        let file = store.content.open_blob(digest)?;
        let size = file.metadata().map_err(Error::io("inspect", &store.content.path(digest)))?.len();
        let mut hashing = HashingReader::new(file, u64::MAX);
        self.file(&format!("blobs/sha256/{}", digest.hex()), size, &mut hashing)?;
        let finished = hashing.finish().map_err(Error::io("read", &store.content.path(digest)))?;
        if finished.0 == *digest {
            return Ok(());
        }
        Err(Error::corrupt(format!("blob {digest}"), format!("its bytes have the digest {}", finished.0)))
    }

    fn file(&mut self, name: &str, size: u64, from: impl Read) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        self.tar.append_data(&mut header, name, from).map_err(failed)
    }

    fn finish(self) -> Result<(), Error> {
        self.tar.into_inner().and_then(|mut to| to.flush()).map_err(failed)
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::io("write", std::path::Path::new("the archive"))(source)
}
