//! ImageFsInfo: what the images take.

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![case(
        "the file system of the images is told, with bytes and inodes that the images take",
        "timestamp must be > 0; used_bytes and inodes_used are those of images",
        |run: Run| async move {
            let answer = run.images().image_fs_info(v1::ImageFsInfoRequest::default()).await?.into_inner();
            let one = answer.image_filesystems.first();
            let one = one.ok_or_else(|| Failure("there is no file system".to_owned()))?;
            ensure!(one.timestamp > 0, "the time is missing");
            let mountpoint = one.fs_id.clone().unwrap_or_default().mountpoint;
            let root = run.side().dir.to_string_lossy().into_owned();
            ensure!(mountpoint.starts_with(&root), "{mountpoint:?} is not below {root}");
            let value = |of: &Option<v1::UInt64Value>| of.as_ref().map_or(0, |value| value.value);
            let (bytes, inodes) = (value(&one.used_bytes), value(&one.inodes_used));
            ensure!((1 << 20..1 << 33).contains(&bytes) && inodes > 0, "{bytes} bytes and {inodes} inodes");
            Ok(())
        },
    )]
}
