//! Turns layer blobs into unpacked layers.
//!
//! In: a layer stream, from the network or from the content store. Out: a staged layer whose digest, size and diff id are right,
//! and the blob in the content store. Blocking; runs on threads that may block. It names nothing: see `Store::register`.

use std::io::Read;

use crate::Error;
use crate::content::Tee;
use crate::digest::{Digest, HashingReader};
use crate::facts::Facts;
use crate::layers::{Place, Staging};
use crate::limits::LayerLimits;
use crate::manifest::Descriptor;
use crate::store::Store;
use crate::unpack::{LayerStream, Unpacked, stream_error, unpack};

/// A layer that is unpacked but has no name yet.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) staging: Staging,
    pub(crate) unpacked: Unpacked,
}

impl Store {
    /// Unpacks a layer while it arrives; the compressed blob lands in the content store if it is what it claims to be.
    pub(crate) fn stage_from_stream(
        &self,
        stream: impl Read,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<Staged, Error> {
        let mut ingest = self.content.ingest()?;
        let tee = Tee { inner: stream, ingest: &mut ingest };
        let staged = self.stage(HashingReader::new(tee, layer.size), layer, diff_id)?;
        ingest.commit(&self.content, &layer.digest)?;
        Ok(staged)
    }

    /// Unpacks a layer whose blob is in the content store.
    pub(crate) fn stage_from_blob(&self, layer: &Descriptor, diff_id: &Digest) -> Result<Staged, Error> {
        let blob = self.content.open_blob(&layer.digest)?;
        self.stage(HashingReader::new(blob, layer.size), layer, diff_id)
    }

    fn stage<R: Read>(
        &self,
        compressed: HashingReader<R>,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<Staged, Error> {
        let staging = self.layers.stage()?;
        let stream = LayerStream {
            compressed,
            compressed_size: layer.size,
            diff_id: diff_id.clone(),
            limits: LayerLimits::default(),
        };
        let (unpacked, rest) = unpack(stream, &staging.fs())?;
        let (digest, size, _) = rest.finish().map_err(|e| stream_error(diff_id, e))?;
        let what = || format!("layer {}", layer.digest);
        if size != layer.size {
            return Err(Error::corrupt(
                what(),
                format!("it has {size} bytes, its descriptor says {}", layer.size),
            ));
        }
        if digest != layer.digest {
            return Err(Error::corrupt(what(), format!("its bytes have the digest {digest}")));
        }
        Ok(Staged { staging, unpacked })
    }

    /// Gives a staged layer its place; the layers below must have theirs.
    pub(crate) fn place(&self, staged: &Staged, place: &Place) -> Result<(), Error> {
        self.layers.commit(&staged.staging, place, &staged.unpacked)
    }

    /// Unpacks those layers of an image that are missing, from blobs in the content store.
    pub(crate) fn ensure_layers(&self, facts: &Facts) -> Result<(), Error> {
        for (place, layer) in facts.places().iter().zip(&facts.layers) {
            if !self.layers.contains(&place.chain_id) {
                let staged = self.stage_from_blob(layer, &place.diff_id)?;
                self.place(&staged, place)?;
            }
        }
        Ok(())
    }
}
