//! Rules for volumes.

use k8s_openapi::api::core::v1 as api;

use super::super::path::FieldPath;
use super::{Checker, limits, names};
use crate::quantity::Quantity;

pub(super) fn check(checker: &mut Checker<'_>, spec: &api::PodSpec, path: &FieldPath) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    if !checker.at_most(path, volumes.len(), limits::VOLUMES) {
        return;
    }
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        if volume.name.is_empty() {
            checker.require(&path.field("name"), "is required");
        } else {
            checker.expect(&path.field("name"), names::dns_label(&volume.name));
        }
        if volume.empty_dir.is_some() && volume.host_path.is_some() {
            checker.fail(&path, "has two sources, emptyDir and hostPath; it may have one");
        }
        if let Some(source) = &volume.empty_dir {
            check_empty_dir(checker, source, &path.field("emptyDir"));
        }
        if let Some(source) = &volume.host_path {
            check_host_path(checker, source, &path.field("hostPath"));
        }
    }
    checker.unique(
        volumes.iter().enumerate().map(|(at, volume)| (volume.name.clone(), path.index(at).field("name"))),
    );
}

fn check_empty_dir(checker: &mut Checker<'_>, source: &api::EmptyDirVolumeSource, path: &FieldPath) {
    let medium = source.medium.as_deref().unwrap_or_default();
    if medium.starts_with("HugePages") {
        checker.fail_with_help(
            &path.field("medium"),
            "huge pages are not supported yet",
            "supported: \"\", Memory",
        );
    } else {
        checker.one_of(&path.field("medium"), Some(medium), &["", "Memory"]);
    }
    let Some(limit) = &source.size_limit else { return };
    let path = path.field("sizeLimit");
    match Quantity::parse(&limit.0) {
        Err(error) => checker.fail(&path, error.to_string()),
        Ok(limit) if limit.is_negative() => checker.fail(&path, "must not be negative"),
        Ok(limit) if medium != "Memory" && !limit.is_zero() => checker.fail_with_help(
            &path,
            "not supported yet on disk",
            "supported with medium Memory; leave it out for a volume without a limit",
        ),
        Ok(_) => {}
    }
}

fn check_host_path(checker: &mut Checker<'_>, source: &api::HostPathVolumeSource, path: &FieldPath) {
    if source.path.is_empty() {
        checker.require(&path.field("path"), "is required");
    } else {
        checker.expect(&path.field("path"), names::absolute_path(&source.path));
    }
    checker.one_of(
        &path.field("type"),
        source.type_.as_deref(),
        &[
            "",
            "DirectoryOrCreate",
            "Directory",
            "FileOrCreate",
            "File",
            "Socket",
            "CharDevice",
            "BlockDevice",
        ],
    );
}
