//! Holds the store against what it claims to be: every blob against its digest, every unpacked layer against its blob.
//!
//! In: a store. Out: what is damaged, and whose images need it. It changes nothing: a layer is unpacked once more into a
//! temporary directory, compared, and thrown away. Memory is a few buffers; the disk needs room for the largest layer.
//! Pulls and snapshots go on meanwhile; what is removed while it is looked at is no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use crate::digest::{Digest, HashingReader};
use crate::facts::Facts;
use crate::install::Wanted;
use crate::layers::Place;
use crate::limits::LayerLimits;
use crate::manifest::Descriptor;
use crate::store::Store;
use crate::tree::open_dir;
use crate::tree_compare::compare;
use crate::{Error, Progress};

/// The most damages that are told.
const TOLD: usize = 1000;

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    pub images: u64,
    pub blobs: u64,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    pub damages: Vec<Damage>,
}

/// One thing that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// `blob sha256:…`, `layer sha256:…` or `image …`.
    pub what: String,
    pub reason: String,
    /// Names (or ids) of the images that need it; none: nobody does.
    pub images: Vec<String>,
}

/// Who needs what.
#[derive(Default)]
struct Needs {
    blobs: BTreeMap<Digest, BTreeSet<String>>,
    /// By chain id.
    layers: BTreeMap<Digest, Layer>,
}

struct Layer {
    place: Place,
    descriptor: Descriptor,
    limits: LayerLimits,
    images: BTreeSet<String>,
}

/// Looks at everything.
pub(crate) fn verify(store: &Arc<Store>, progress: Option<&dyn Progress>) -> Result<Verification, Error> {
    // Keeps the collector away from what is looked at.
    let busy = store.busy();
    let mut verification = Verification::default();
    let needs = read_images(store, &mut verification);
    let broken = verify_blobs(store, &needs, &mut verification, progress)?;
    for (chain_id, layer) in &needs.layers {
        // Without its blob there is nothing to hold the layer against, and that is told already.
        let is_sound = !broken.contains(&layer.descriptor.digest);
        if is_sound && store.layers.contains(chain_id) {
            verification.layers += 1;
            if let Err(reason) = verify_layer(store, layer) {
                tell(&mut verification, format!("layer {chain_id}"), reason, &layer.images);
            }
        }
    }
    drop(busy);
    store.collect()?;
    Ok(verification)
}

fn read_images(store: &Store, verification: &mut Verification) -> Needs {
    let mut needs = Needs::default();
    let mut seen = BTreeSet::new();
    for entry in store.entries() {
        let name = entry.name.clone().unwrap_or_else(|| entry.descriptor.digest.to_string());
        verification.images += u64::from(seen.insert(entry.descriptor.digest.clone()));
        match Facts::read(&store.content, &entry.descriptor) {
            Ok(facts) => needs.add(&facts, &name),
            Err(error) => {
                let images = BTreeSet::from([name.clone()]);
                tell(verification, format!("image {name}"), error.to_string(), &images);
            }
        }
    }
    needs
}

impl Needs {
    fn add(&mut self, facts: &Facts, image: &str) {
        for blob in &facts.blobs {
            self.blobs.entry(blob.clone()).or_default().insert(image.to_owned());
        }
        let limits = LayerLimits::for_image_of(facts.layers.len());
        for (place, descriptor) in facts.places().into_iter().zip(&facts.layers) {
            let layer = self.layers.entry(place.chain_id.clone()).or_insert_with(|| Layer {
                place,
                descriptor: descriptor.clone(),
                limits,
                images: BTreeSet::new(),
            });
            layer.images.insert(image.to_owned());
        }
    }
}

/// The blobs that are not what they should be, or not there.
fn verify_blobs(
    store: &Store,
    needs: &Needs,
    verification: &mut Verification,
    progress: Option<&dyn Progress>,
) -> Result<BTreeSet<Digest>, Error> {
    let mut broken = BTreeSet::new();
    let nobody = BTreeSet::new();
    let stored: BTreeMap<_, _> = store.content.list()?.into_iter().collect();
    for missing in
        needs.blobs.keys().filter(|digest| !stored.contains_key(digest) && !store.content.contains(digest))
    {
        broken.insert(missing.clone());
        let reason = "it is missing".to_owned();
        tell(verification, format!("blob {missing}"), reason, &needs.blobs[missing]);
    }
    for (digest, size) in stored {
        let name = digest.to_string();
        progress.inspect(|p| p.started(&name, size));
        match hash(store, &digest) {
            Ok(None) => continue,
            Ok(Some((found, size))) => {
                verification.blobs += 1;
                verification.bytes += size;
                if found != digest {
                    broken.insert(digest.clone());
                    let reason = format!("its {size} bytes have the digest {found}");
                    tell(
                        verification,
                        format!("blob {digest}"),
                        reason,
                        needs.blobs.get(&digest).unwrap_or(&nobody),
                    );
                }
            }
            Err(error) => {
                broken.insert(digest.clone());
                let reason = format!("it cannot be read: {error}");
                tell(
                    verification,
                    format!("blob {digest}"),
                    reason,
                    needs.blobs.get(&digest).unwrap_or(&nobody),
                );
            }
        }
        progress.inspect(|p| p.finished(&name));
    }
    Ok(broken)
}

/// The digest the blob really has; none if it is gone.
fn hash(store: &Store, digest: &Digest) -> io::Result<Option<(Digest, u64)>> {
    let file = match store.content.open_blob(digest) {
        Err(Error::NotFound { .. }) => return Ok(None),
        other => other.map_err(io::Error::other)?,
    };
    let reader = io::BufReader::with_capacity(128 << 10, file);
    let (found, size, _) = HashingReader::new(reader, u64::MAX).finish()?;
    Ok(Some((found, size)))
}

fn verify_layer(store: &Store, layer: &Layer) -> Result<(), String> {
    let describe = |e: Error| {
        let source = std::error::Error::source(&e).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{e}{source}")
    };
    let record = store.layers.record(&layer.place.chain_id).map_err(describe)?;
    if record.diff_id != layer.place.diff_id {
        return Err(format!("its record says that it was made of {}", record.diff_id));
    }
    let wanted = Wanted {
        layer: layer.descriptor.clone(),
        diff_id: layer.place.diff_id.clone(),
        limits: layer.limits,
    };
    let staged = store.stage_from_blob(&wanted).map_err(describe)?;
    store.layers.inherit(&staged.staging, &layer.place, &staged.unpacked).map_err(describe)?;
    let open = |path: &std::path::Path| open_dir(path).map_err(describe);
    compare(&open(&store.layers.fs(&layer.place.chain_id))?, &open(&staged.staging.fs())?)
}

fn tell(verification: &mut Verification, what: String, reason: String, images: &BTreeSet<String>) {
    if verification.damages.len() < TOLD {
        verification.damages.push(Damage { what, reason, images: images.iter().cloned().collect() });
    }
}
