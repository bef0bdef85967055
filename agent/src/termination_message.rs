//! What a container says about its own end.
//!
//! In: the file that was mounted at its `terminationMessagePath`, its log, its exit code. Out: the message for its status,
//! at most 4096 bytes; from the log the last 2048 bytes or 80 lines. Links that the container may have put there are not
//! followed.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// Enough of a log's end for so many lines of it with their time stamps.
const LOG_TAIL: u64 = 16 * 1024;

/// Where a message may be found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// The file that was mounted into the container.
    pub(crate) file: &'a Path,
    /// The container's log, if its policy is `FallbackToLogsOnError` and it ended in error.
    pub(crate) log: Option<&'a Path>,
}

/// The message; empty if there is none.
pub(crate) fn read(from: Sources<'_>) -> String {
    let own = read_plain(from.file, MAX_MESSAGE, SeekFrom::Start(0)).unwrap_or_default();
    if !own.is_empty() {
        return String::from_utf8_lossy(&own).into_owned();
    }
    let Some(log) = from.log else { return String::new() };
    let from_end = SeekFrom::End(-i64::try_from(LOG_TAIL).unwrap_or(i64::MAX));
    let tail = read_plain(log, LOG_TAIL, from_end).or_else(|| read_plain(log, LOG_TAIL, SeekFrom::Start(0)));
    last_lines(&String::from_utf8_lossy(&tail.unwrap_or_default()))
}

fn read_plain(path: &Path, limit: u64, from: SeekFrom) -> Option<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.seek(from).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The texts of the last lines of a log in CRI's format.
fn last_lines(tail: &str) -> String {
    let mut texts: Vec<String> = Vec::new();
    for line in tail.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(_time), Some("stdout" | "stderr"), Some(tag), Some(text)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        texts.push(if tag == "P" { text.to_owned() } else { format!("{text}\n") });
    }
    let first = texts.len().saturating_sub(MAX_LOG_LINES);
    let text = texts[first..].concat();
    let mut cut = text.len().saturating_sub(MAX_LOG_BYTES);
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    text[cut..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(message: &str, log: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("message"), message).expect("written");
        std::fs::write(dir.path().join("log"), log).expect("written");
        dir
    }

    fn read_from(dir: &tempfile::TempDir) -> String {
        let (file, log) = (dir.path().join("message"), dir.path().join("log"));
        read(Sources { file: &file, log: Some(&log) })
    }

    #[test]
    fn the_containers_own_message_comes_first_and_is_cut_at_4096_bytes() {
        let dir = dir_with(&"m".repeat(5000), "2026-01-01T00:00:00Z stderr F other\n");
        assert_eq!(read_from(&dir), "m".repeat(4096));
    }

    #[test]
    fn without_one_the_logs_last_80_lines_or_2048_bytes_are_taken() {
        let line = |n: usize| format!("2026-01-01T00:00:00Z stdout F line {n}\n");
        let dir = dir_with("", &(0..500).map(line).collect::<String>());
        let message = read_from(&dir);
        assert_eq!(message.lines().count(), 80);
        assert!(message.ends_with("line 499\n") && message.starts_with("line 420\n"), "{message}");
        let long = format!(
            "2026-01-01T00:00:00Z stdout P {}\n2026-01-01T00:00:00Z stdout F end\n",
            "é".repeat(1500)
        );
        let message = read_from(&dir_with("", &long));
        assert!(message.len() <= 2048 && message.ends_with("éend\n"));
    }

    #[test]
    fn a_link_in_the_messages_place_is_not_followed() {
        let dir = dir_with("", "");
        std::fs::remove_file(dir.path().join("message")).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("message")).expect("link");
        assert_eq!(read_from(&dir), "");
    }
}
