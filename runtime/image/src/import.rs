//! Imports archives: OCI layouts and what `docker save` writes, plain or compressed.
//!
//! In: an archive as a stream. Out: named images in the store. Files may come in any order, so each is spooled to the ingest
//! directory while its digest is computed; what is needed is then renamed into the content store, the rest vanishes. Memory
//! holds the small JSON documents only.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use serde::Deserialize;

use crate::compression::Bounded;
use crate::content::{Content, Ingest, check_size};
use crate::digest::{Digest, TooManyBytes, shorten};
use crate::facts::Facts;
use crate::index::{IMAGE_NAME, REF_NAME};
use crate::layer_root::split;
use crate::limits::{self, LayerLimits};
use crate::manifest::{Descriptor, Document, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, select_platform};
use crate::reference::Reference;
use crate::store::Store;
use crate::tar_stream::{Kind, TarStream};
use crate::{Error, Image, ImportOptions, Progress};

/// What is read of an archive at once.
const READ_BUFFER: usize = 128 << 10;
/// Links in an archive that lead to links, at most.
const LINK_HOPS: usize = 8;

pub(crate) fn import(
    store: &Arc<Store>,
    archive: impl Read,
    opts: &ImportOptions,
) -> Result<Vec<Image>, Error> {
    if let Some(policy) = &opts.policy {
        policy.check_import()?;
    }
    let tag = opts.tag.as_deref().map(Reference::parse).transpose()?;
    let busy = store.busy();
    let result = Spool::read(&store.content, archive).and_then(|mut spool| {
        let mut found = spool.images()?;
        if let Some(tag) = &tag {
            let [only] = found.as_mut_slice() else {
                let reason = format!(
                    "the archive holds {} images and can be given one name only if it holds one",
                    found.len()
                );
                return Err(Error::InvalidName { name: tag.to_string(), reason });
            };
            only.names = vec![tag.stored()];
        }
        found.into_iter().map(|image| install(store, &mut spool, &image, opts.progress.as_deref())).collect()
    });
    if result.is_err() {
        store.want_collection();
    }
    drop(busy);
    store.collect()?;
    result
}

/// An image found in an archive.
struct Found {
    descriptor: Descriptor,
    names: Vec<String>,
}

fn install(
    store: &Arc<Store>,
    spool: &mut Spool<'_>,
    image: &Found,
    progress: Option<&dyn Progress>,
) -> Result<Image, Error> {
    spool.keep(&image.descriptor)?;
    let document = Document::parse(&store.content.read(&image.descriptor.digest, limits::MANIFEST_BYTES)?)?;
    let manifest = match document {
        Document::Manifest(manifest) => manifest,
        Document::Index(entries) => {
            let chosen = select_platform(&entries)?;
            spool.keep(chosen)?;
            match Document::parse(&store.content.read(&chosen.digest, limits::MANIFEST_BYTES)?)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => {
                    return Err(Error::unsupported("an index inside an index", "one level is"));
                }
            }
        }
    };
    spool.keep(&manifest.config)?;
    for layer in &manifest.layers {
        spool.keep(layer)?;
    }
    let facts = Facts::read(&store.content, &image.descriptor)?;
    store.ensure_layers(&facts, progress)?;
    store.register(&image.names, &image.descriptor)
}

/// The files of an archive, on disk but not in the content store yet.
struct Spool<'a> {
    content: &'a Content,
    files: BTreeMap<Vec<u8>, Spooled>,
    /// Links, which older `docker save` archives use for repeated layers: path to the target's path.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

struct Spooled {
    /// Gone once the file became a blob.
    ingest: Option<Ingest>,
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<Descriptor>,
}

impl<'a> Spool<'a> {
    fn read(content: &'a Content, archive: impl Read) -> Result<Self, Error> {
        let mut spool = Self { content, files: BTreeMap::new(), links: BTreeMap::new() };
        let limits = LayerLimits::for_archive();
        let plain = Bounded::new(archive, limits).map_err(archive_error)?;
        let mut tar = TarStream::new(BufReader::with_capacity(READ_BUFFER, plain), limits);
        while let Some(entry) = tar.next_entry().map_err(archive_error)? {
            let location = split(&entry.path).map_err(|reason| Error::corrupt("archive", reason))?;
            let Some(location) = location else { continue };
            match entry.kind {
                Kind::File => spool.add(location.path(), BodyReader(&mut tar))?,
                // Symbolic links are relative to their directory, hard links to the archive.
                Kind::Symlink { target } => {
                    let target = [&location.parent, &b"/"[..], &target].concat();
                    spool.links.insert(location.path(), lexical(&target));
                }
                Kind::HardLink { target } => drop(spool.links.insert(location.path(), lexical(&target))),
                Kind::Directory | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {}
            }
        }
        Ok(spool)
    }

    fn add(&mut self, path: Vec<u8>, body: impl Read) -> Result<(), Error> {
        let mut ingest = self.content.ingest()?;
        let (digest, size) = ingest.fill(body, limits::BLOB_BYTES).map_err(archive_error)?;
        self.files.insert(path, Spooled { ingest: Some(ingest), digest, size });
        Ok(())
    }

    fn images(&mut self) -> Result<Vec<Found>, Error> {
        if self.files.contains_key(&b"index.json"[..]) {
            return self.layout_images();
        }
        if self.files.contains_key(&b"manifest.json"[..]) {
            return self.docker_images();
        }
        Err(Error::corrupt(
            "archive",
            "it has neither index.json (OCI layout) nor manifest.json (docker save)",
        ))
    }

    /// Images of an OCI layout. The same digest under several names is one image.
    fn layout_images(&mut self) -> Result<Vec<Found>, Error> {
        let index: LayoutIndex = self.json(b"index.json")?;
        if index.manifests.len() > limits::INDEX_ENTRIES {
            let limit = format!("{} entries", limits::INDEX_ENTRIES);
            return Err(Error::TooLarge { what: "index.json".into(), limit });
        }
        let mut found: Vec<Found> = Vec::new();
        for descriptor in index.manifests {
            let names = layout_names(&descriptor)?;
            match found.iter_mut().find(|f| f.descriptor.digest == descriptor.digest) {
                Some(same) => same.names.extend(names),
                None => found.push(Found { descriptor, names }),
            }
        }
        if found.is_empty() {
            Err(Error::corrupt("archive", "its index.json lists no image"))
        } else {
            Ok(found)
        }
    }

    /// Images of `docker save`: a manifest is written for each, the layers stay as they are.
    fn docker_images(&mut self) -> Result<Vec<Found>, Error> {
        let images: Vec<DockerImage> = self.json(b"manifest.json")?;
        if images.is_empty() {
            return Err(Error::corrupt("archive", "its manifest.json lists no image"));
        }
        if images.len() > limits::INDEX_ENTRIES {
            let limit = format!("{} images", limits::INDEX_ENTRIES);
            return Err(Error::TooLarge { what: "manifest.json".into(), limit });
        }
        images.into_iter().map(|image| self.docker_image(&image)).collect()
    }

    fn docker_image(&mut self, image: &DockerImage) -> Result<Found, Error> {
        let names: Vec<_> = image
            .repo_tags
            .iter()
            .flatten()
            .map(|t| Reference::parse(t).map(|r| r.stored()))
            .collect::<Result<_, _>>()?;
        let describe = |spool: &mut Self, path: &str, media_type: &str| {
            let file = spool.file(path.as_bytes())?;
            Ok::<_, Error>(Descriptor {
                media_type: media_type.to_owned(),
                digest: file.digest.clone(),
                size: file.size,
                annotations: None,
                platform: None,
            })
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: describe(self, &image.config, OCI_CONFIG)?,
            layers: image
                .layers
                .iter()
                .map(|path| describe(self, path, OCI_LAYER))
                .collect::<Result<_, _>>()?,
            annotations: None,
        };
        let json = serde_json::to_vec(&manifest).map_err(|e| Error::corrupt("archive", e.to_string()))?;
        let digest = self.content.put(&json)?;
        let descriptor = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest,
            size: json.len() as u64,
            annotations: None,
            platform: None,
        };
        Ok(Found { descriptor, names })
    }

    /// The file at `path`, through links.
    fn file(&mut self, path: &[u8]) -> Result<&mut Spooled, Error> {
        let mut at = lexical(path);
        for _ in 0..LINK_HOPS {
            match self.links.get(&at) {
                Some(target) => at.clone_from(target),
                None => break,
            }
        }
        self.files.get_mut(&at).ok_or_else(|| {
            Error::corrupt(
                "archive",
                format!("it lacks the file {:?}", shorten(&String::from_utf8_lossy(path))),
            )
        })
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, path: &[u8]) -> Result<T, Error> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let file = self.file(path)?;
        if file.size > limits::MANIFEST_BYTES {
            return Err(Error::TooLarge { what: shown, limit: format!("{} bytes", limits::MANIFEST_BYTES) });
        }
        let Some(ingest) = &file.ingest else {
            return Err(Error::corrupt("archive", format!("{shown} is a blob")));
        };
        serde_json::from_reader(io::BufReader::new(ingest.reopen()?))
            .map_err(|e| Error::corrupt(format!("archive: {shown}"), shorten(&e.to_string())))
    }

    /// Makes the file with the descriptor's digest a blob, wherever in the archive it is.
    fn keep(&mut self, wanted: &Descriptor) -> Result<(), Error> {
        if self.content.contains_as(wanted)? {
            return Ok(());
        }
        let file = self.files.values_mut().find(|file| file.digest == wanted.digest);
        let Some(file) = file else {
            return Err(Error::corrupt("archive", format!("no file in it has the digest {}", wanted.digest)));
        };
        check_size(&wanted.digest, file.size, wanted.size)?;
        match file.ingest.take() {
            Some(ingest) => ingest.commit(self.content, &wanted.digest),
            None => Err(Error::not_found(format!("blob {}", wanted.digest))),
        }
    }
}

/// Names by annotation. A bare tag, as image builders write it, names nothing by itself.
fn layout_names(descriptor: &Descriptor) -> Result<Vec<String>, Error> {
    let annotations = descriptor.annotations.as_ref();
    let get = |key| annotations.and_then(|a: &BTreeMap<String, String>| a.get(key));
    match (get(IMAGE_NAME), get(REF_NAME)) {
        (Some(name), _) => Reference::parse(name).map(|r| vec![r.stored()]),
        (None, Some(name)) if name.contains([':', '/']) => Reference::parse(name).map(|r| vec![r.stored()]),
        _ => Ok(Vec::new()),
    }
}

/// A path in the archive with `.` and `..` resolved by its text; it is only a key and never opened.
fn lexical(path: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()),
            other => components.push(other),
        }
    }
    components.join(&b'/')
}

fn archive_error(error: io::Error) -> Error {
    if let Some(too_many) = error.get_ref().and_then(|e| e.downcast_ref::<TooManyBytes>()) {
        return Error::TooLarge { what: "archive".into(), limit: format!("{} bytes", too_many.limit) };
    }
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::corrupt("archive", error.to_string()),
    }
}

struct BodyReader<'a, R>(&'a mut TarStream<R>);

impl<R: BufRead> Read for BodyReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_body(buf)
    }
}
