//! Turns layer blobs into unpacked layers.
//!
//! In: a layer stream, from the network or from the content store. Out: a staged layer whose digest, size and diff id are right,
//! and the blob in the content store. Blocking; runs on threads that may block. It names nothing: see `Store::register`.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::content::{Tee, check_size};
use crate::digest::{Digest, HashingReader};
use crate::facts::Facts;
use crate::layers::{Place, Staging};
use crate::limits::LayerLimits;
use crate::manifest::Descriptor;
use crate::pull::PARALLEL_LAYERS;
use crate::store::Store;
use crate::unpack::{LayerStream, Unpacked, stream_error, unpack};
use crate::{Error, Progress};

/// A layer that is unpacked but has no name yet.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) staging: Staging,
    pub(crate) unpacked: Unpacked,
}

/// A layer to unpack, and what it has to be.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) limits: LayerLimits,
}

impl Store {
    /// Unpacks a layer while it arrives; the compressed blob lands in the content store if it is what it claims to be.
    pub(crate) fn stage_from_stream(
        &self,
        stream: impl Read + Send,
        wanted: &Wanted,
    ) -> Result<Staged, Error> {
        let mut ingest = self.content.ingest()?;
        let tee = Tee { inner: stream, ingest: &mut ingest };
        let (staged, rest) = self.stage(HashingReader::new(tee, wanted.layer.size), wanted)?;
        let (digest, size, _) = rest.finish().map_err(|e| stream_error(&wanted.diff_id, e))?;
        check_size(&wanted.layer.digest, size, wanted.layer.size)?;
        if digest != wanted.layer.digest {
            let reason = format!("its bytes have the digest {digest}");
            return Err(Error::corrupt(format!("layer {}", wanted.layer.digest), reason));
        }
        ingest.commit(&self.content, &wanted.layer.digest)?;
        Ok(staged)
    }

    /// Unpacks a layer whose blob is in the content store. The blob's digest was checked on its way in; what comes out is
    /// held against the diff id anyway.
    pub(crate) fn stage_from_blob(&self, wanted: &Wanted) -> Result<Staged, Error> {
        let blob = self.content.open_blob(&wanted.layer.digest)?;
        let stored =
            blob.metadata().map_err(Error::io("inspect", &self.content.path(&wanted.layer.digest)))?;
        check_size(&wanted.layer.digest, stored.len(), wanted.layer.size)?;
        self.stage(blob, wanted).map(|(staged, _)| staged)
    }

    fn stage<R: Read + Send>(&self, compressed: R, wanted: &Wanted) -> Result<(Staged, R), Error> {
        let staging = self.layers.stage()?;
        let stream = LayerStream {
            compressed,
            compressed_size: wanted.layer.size,
            diff_id: wanted.diff_id.clone(),
            limits: wanted.limits,
        };
        let (unpacked, rest) = unpack(stream, &staging.fs())?;
        Ok((Staged { staging, unpacked }, rest))
    }

    /// Gives a staged layer its place; the layers below must have theirs.
    pub(crate) fn place(&self, staged: &Staged, place: &Place) -> Result<(), Error> {
        self.layers.commit(&staged.staging, place, &staged.unpacked)
    }

    /// Unpacks those layers of an image that are missing, from blobs in the content store, several at once.
    pub(crate) fn ensure_layers(&self, facts: &Facts, progress: Option<&dyn Progress>) -> Result<(), Error> {
        let places = facts.places();
        let limits = LayerLimits::for_image_of(places.len());
        let missing: Vec<_> = places
            .iter()
            .zip(&facts.layers)
            .filter(|(place, _)| !self.layers.contains(&place.chain_id))
            .map(|(place, layer)| Wanted { layer: layer.clone(), diff_id: place.diff_id.clone(), limits })
            .collect();
        let mut staged = in_parallel(&missing, |wanted| {
            let name = wanted.layer.digest.to_string();
            progress.inspect(|p| p.started(&name, wanted.layer.size));
            let staged = self.stage_from_blob(wanted)?;
            progress.inspect(|p| {
                p.advanced(&name, wanted.layer.size);
                p.finished(&name);
            });
            Ok(staged)
        })?
        .into_iter();
        // From the lowest up: each takes attributes from those below.
        for place in places.iter().filter(|place| !self.layers.contains(&place.chain_id)) {
            if let Some(staged) = staged.next() {
                self.place(&staged, place)?;
            }
        }
        Ok(())
    }
}

/// Does the work for all items on a few threads and returns the results in the items' order, or the first error. After an
/// error no new item is begun.
fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let turns = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(PARALLEL_LAYERS);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(turns);
        }
        turns();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_an_error_stops_the_rest() {
        let items: Vec<_> = (0..100).collect();
        assert_eq!(in_parallel(&items, |i| Ok(i * 2)).unwrap(), (0..200).step_by(2).collect::<Vec<_>>());
        let done = AtomicUsize::new(0);
        let failing = in_parallel(&items, |i| {
            done.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err(Error::not_found("three")) } else { Ok(()) }
        });
        assert!(matches!(failing, Err(Error::NotFound { .. })));
        assert!(done.into_inner() < 100);
        assert!(in_parallel(&[] as &[u8], |_| Ok(())).unwrap().is_empty());
    }
}
