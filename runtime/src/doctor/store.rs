//! The image store's share of the comparison: snapshots, layers, blobs, half-done work. Pure.
//!
//! In: a [`Case`]. Out: findings.

use std::path::{Path, PathBuf};

use super::{Finding, Kind, Remedy, compare::Case};
use crate::engine::image_volumes::container_of;

pub(super) fn compare(case: Case<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = snapshots(case).collect();
    let images = &case.found.images;
    findings.extend(unneeded(case, &images.unfinished, |path| {
        Finding::surplus(Kind::File, path, "never finished, or never wholly removed")
            .step("opening the image store clears it")
    }));
    findings.extend(unneeded(case, &images.unneeded_layers, |path| {
        Finding::surplus(Kind::Layer, path, "layer that no image and no snapshot is made of")
            .step("removing an image, or a pull that fails, collects it")
    }));
    findings.extend(unneeded(case, &images.unneeded_blobs, |path| {
        Finding::surplus(Kind::Blob, path, "blob that no image's documents lead to")
            .step("removing an image, or a pull that fails, collects it")
    }));
    findings.extend(images.missing_layers.iter().map(|path| {
        let what = "layer that a container's root file system is made of";
        Finding::lack(Kind::Layer, path.display().to_string(), what)
            .ours("it is below the root directory")
            .step("layers stay while a snapshot is made of them")
            .remedy(Remedy::None("remove the container and pull its image again".to_owned()))
    }));
    findings.extend(images.broken_images.iter().map(|(name, reason)| {
        Finding::lack(Kind::Image, name, format!("its documents cannot be read: {reason}"))
            .ours("it is in the index below the root directory")
            .step("a pull stores them before it names the image")
            .remedy(Remedy::None("`pintle rmi` it and pull it again".to_owned()))
    }));
    findings
}

fn snapshots(case: Case<'_>) -> impl Iterator<Item = Finding> {
    let images = &case.found.images;
    let has_container = move |key: &str| case.expected.containers.contains_key(container_of(key));
    let orphans = images.snapshots.iter().filter(move |key| !has_container(key)).map(|key| {
        Finding::surplus(Kind::Snapshot, key, "root or image volume of a container that has no record")
            .ours("it is below the root directory")
            .step("RemoveContainer removes it")
            .owner(container_of(key))
            .remedy(Remedy::RemoveSnapshot(key.clone()))
    });
    let broken = images.broken_snapshots.iter().filter(move |(key, _)| has_container(key));
    let broken = broken.map(|(key, reason)| {
        Finding::lack(Kind::Snapshot, key, format!("its record cannot be read: {reason}"))
            .ours("it is below the root directory")
            .step("CreateContainer wrote it")
            .owner(container_of(key))
            .remedy(Remedy::None("remove the container".to_owned()))
    });
    let missing = case.expected.containers.iter().filter(move |(id, known)| {
        known.record.complete
            && !known.ended
            && case.expected.may_run(&known.record.sandbox)
            && !images.snapshots.contains(id)
    });
    let missing = missing.map(|(id, known)| {
        Finding::lack(Kind::Snapshot, id, format!("container {} has no root file system", known.record.name))
            .ours("its record is below the state directory")
            .step("CreateContainer made it")
            .owner(id)
            .remedy(Remedy::None("remove the container".to_owned()))
    });
    orphans.chain(broken).chain(missing)
}

/// What the store has and nobody needs, unless an engine may be at work on it.
fn unneeded<'a>(
    case: Case<'a>,
    paths: &'a [PathBuf],
    finding: impl Fn(String) -> Finding + 'a,
) -> impl Iterator<Item = Finding> + 'a {
    let since = move |path: &Path| case.found.image_times.get(path).copied();
    paths.iter().filter(move |path| !case.in_work(since(path))).map(move |path| {
        finding(path.display().to_string())
            .ours("it is in the image store below the root directory")
            .since(since(path))
            .remedy(Remedy::Discard(path.clone()))
    })
}
