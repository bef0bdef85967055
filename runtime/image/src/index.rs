//! The names of images: `index.json` of the layout, in memory and on disk.
//!
//! In: names with descriptors. Out: entries; the file is replaced atomically with every change. One name is one entry, several
//! entries may describe the same image, and an image whose last name went to another one keeps an entry without a name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::content::write_atomically;
use crate::digest::Digest;
use crate::manifest::{Descriptor, OCI_INDEX};

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// A named (or nameless) image.
#[derive(Debug, Clone)]
pub(crate) struct IndexEntry {
    pub(crate) name: Option<String>,
    /// Of the manifest or index the name stands for; its annotations are those the image was asked for with.
    pub(crate) descriptor: Descriptor,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// All entries of one store.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    entries: Vec<IndexEntry>,
}

impl Index {
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let mut index = Self { path, entries: Vec::new() };
        match std::fs::read(&index.path) {
            Ok(bytes) => {
                let file: File = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::corrupt(index.path.display().to_string(), e.to_string()))?;
                index.entries = file.manifests.into_iter().map(IndexEntry::read).collect();
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => index.save(&[])?,
            Err(e) => return Err(Error::io("read", &index.path)(e)),
        }
        Ok(index)
    }

    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Gives an image names (or an entry without one). Names it takes from other images leave those findable by id.
    pub(crate) fn add(&mut self, names: &[String], descriptor: &Descriptor) -> Result<(), Error> {
        let mut entries = self.entries.clone();
        let moved = entries.iter_mut().filter(|e| e.name.as_ref().is_some_and(|n| names.contains(n)));
        moved.for_each(|entry| entry.name = None);
        let named = |name| IndexEntry { name, descriptor: descriptor.clone() };
        entries.extend(names.iter().map(|name| named(Some(name.clone()))));
        if names.is_empty() {
            entries.push(named(None));
        }
        self.replace(entries)
    }

    /// Drops all entries that `doomed` chooses.
    pub(crate) fn remove(&mut self, doomed: impl Fn(&IndexEntry) -> bool) -> Result<(), Error> {
        let entries = self.entries.iter().filter(|e| !doomed(e)).cloned().collect();
        self.replace(entries)
    }

    /// Saves first, so that memory never claims what the disk does not have.
    fn replace(&mut self, entries: Vec<IndexEntry>) -> Result<(), Error> {
        let entries = without_superfluous(entries);
        self.save(&entries)?;
        self.entries = entries;
        Ok(())
    }

    fn save(&self, entries: &[IndexEntry]) -> Result<(), Error> {
        let manifests = entries.iter().map(IndexEntry::written).collect();
        let file = File { schema_version: 2, media_type: OCI_INDEX.into(), manifests };
        let json = serde_json::to_vec_pretty(&file).map_err(|e| Error::io("encode", &self.path)(e))?;
        write_atomically(&self.path, &json)
    }
}

/// Drops entries without a name whose image has a name elsewhere or is there twice.
fn without_superfluous(entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    let named: Vec<Digest> =
        entries.iter().filter(|e| e.name.is_some()).map(|e| e.descriptor.digest.clone()).collect();
    let mut nameless = Vec::new();
    entries
        .into_iter()
        .filter(|entry| {
            let digest = &entry.descriptor.digest;
            if entry.name.is_some() {
                return true;
            }
            let first = !named.contains(digest) && !nameless.contains(digest);
            nameless.push(digest.clone());
            first
        })
        .collect()
}

impl IndexEntry {
    fn read(mut descriptor: Descriptor) -> Self {
        let mut annotations = descriptor.annotations.take().unwrap_or_default();
        let (name, reference) = (annotations.remove(IMAGE_NAME), annotations.remove(REF_NAME));
        descriptor.annotations = Some(annotations).filter(|left| !left.is_empty());
        Self { name: name.or(reference), descriptor }
    }

    fn written(&self) -> Descriptor {
        let names = self
            .name
            .iter()
            .flat_map(|name| [REF_NAME, IMAGE_NAME].map(|key| (key.to_owned(), name.clone())));
        let own = self.descriptor.annotations.clone().unwrap_or_default();
        let annotations: BTreeMap<_, _> = own.into_iter().chain(names).collect();
        Descriptor {
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..self.descriptor.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(text: &str) -> Descriptor {
        Descriptor {
            media_type: crate::manifest::OCI_MANIFEST.into(),
            digest: Digest::of(text.as_bytes()),
            size: 3,
            annotations: None,
            platform: None,
        }
    }

    #[test]
    fn annotations_stay_with_their_entry_and_never_name_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        let mut index = Index::open(path.clone()).unwrap();
        let given = [("team", "a"), (IMAGE_NAME, "evil:1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let annotations = Some(given.into_iter().collect());
        index.add(&["a:1".into()], &Descriptor { annotations, ..descriptor("x") }).unwrap();
        let index = Index::open(path).unwrap();
        let entry = &index.entries()[0];
        assert_eq!(entry.name.as_deref(), Some("a:1"));
        let kept: Vec<_> = entry.descriptor.annotations.clone().unwrap().into_iter().collect();
        assert_eq!(kept, [("team".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn an_image_that_loses_its_name_stays_and_names_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        let mut index = Index::open(path.clone()).unwrap();
        index.add(&["a:1".into(), "a:2".into()], &descriptor("old")).unwrap();
        index.add(&["a:1".into()], &descriptor("new")).unwrap();
        let show = |index: &Index| {
            index
                .entries
                .iter()
                .map(|e| (e.name.clone().unwrap_or_default(), e.descriptor.digest.clone()))
                .collect::<Vec<_>>()
        };
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        assert_eq!(show(&index), [("a:2".into(), old.clone()), ("a:1".into(), new.clone())]);
        index.add(&["a:2".into()], &descriptor("new")).unwrap();
        let index = Index::open(path).unwrap();
        assert_eq!(show(&index), [(String::new(), old), ("a:1".into(), new.clone()), ("a:2".into(), new)]);
    }
}
