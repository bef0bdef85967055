//! Following a log file across rotation, without losing a line.
//!
//! In: the path a container logs to, read up to somewhere. Out: every further line, in order, and wake-ups when
//! there may be more. Rotation is a rename of the file and a new file at the path:
//!
//! ```text
//!   reading current ──path has another file, which has content──► drain current ► open the next ► reading
//! ```
//!
//! The next file is the oldest one renamed after the current one, so that several rotations between two looks
//! cost nothing; only then the file at the path. The file before is kept open and looked at once more, because a
//! writer may still have it open when the first line reaches its successor. Polls nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use inotify::{EventStream, Inotify, WatchMask};
use tokio_stream::StreamExt;

use super::file::{Inode, LogFile};

type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Whether more may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Alive,
    Gone,
}

/// Reads one container's log, whatever files it is in.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    current: LogFile,
    before: Option<LogFile>,
}

impl Follower {
    /// Goes on where `current`, the file at `path`, has been read to.
    pub(crate) fn new(path: PathBuf, current: LogFile) -> Self {
        Self { path, current, before: None }
    }

    /// Hands over all lines there are now. When the writer is gone, also an unfinished last one.
    pub(crate) fn drain(&mut self, writer: Writer, sink: Sink<'_>) -> io::Result<()> {
        loop {
            if let Some(before) = &mut self.before {
                before.lines(sink)?;
            }
            self.current.lines(sink)?;
            let Some(next) = self.successor(writer)? else { break };
            self.current.lines(sink)?;
            if let Some(mut before) = self.before.replace(std::mem::replace(&mut self.current, next)) {
                before.lines(sink)?;
                before.rest(sink)?;
            }
        }
        if writer == Writer::Gone {
            if let Some(before) = &mut self.before {
                before.rest(sink)?;
            }
            self.current.rest(sink)?;
        }
        Ok(())
    }

    /// The file to read after the current one, once it is in use.
    fn successor(&self, writer: Writer) -> io::Result<Option<LogFile>> {
        if fs::metadata(&self.path).is_ok_and(|live| (live.dev(), live.ino()) == self.current.inode()) {
            return Ok(None);
        }
        let live = match LogFile::open(&self.path) {
            Ok(live) if live.inode() == self.current.inode() => return Ok(None),
            Ok(live) => live,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Opened before the names are read: a rotation in between shows up among the names.
        if let Some(rotated) = self.next_rotated(live.inode())? {
            return Ok(Some(rotated));
        }
        let in_use = writer == Writer::Gone || live.file().metadata()?.len() > 0;
        Ok(in_use.then_some(live))
    }

    /// The oldest file that was rotated away after the current one.
    fn next_rotated(&self, live: Inode) -> io::Result<Option<LogFile>> {
        let metadata = self.current.file().metadata()?;
        let here = (metadata.modified()?, self.current.inode());
        let mut rotated = rotated_files(&self.path)?;
        // A late line makes the file before look newer than the current one; it has been read already.
        rotated.retain(|file| self.before.as_ref().is_none_or(|before| before.inode() != file.inode));
        rotated.sort();
        let at = rotated.iter().position(|file| file.inode == here.1);
        let later = rotated.iter().skip(at.map_or(0, |at| at + 1)).filter(|file| file.inode != here.1);
        for file in later.filter(|file| at.is_some() || file.modified > here.0) {
            match LogFile::open(&file.path) {
                Ok(log) if log.inode() == file.inode || log.inode() == live => return Ok(Some(log)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// A file that once was at the path. Ordered by its last line.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rotated {
    modified: SystemTime,
    path: PathBuf,
    inode: Inode,
}

fn rotated_files(path: &Path) -> io::Result<Vec<Rotated>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_rotated = name.to_str().is_some_and(|name| {
            name.starts_with(&prefix) && !name.ends_with(".gz") && !name.ends_with(".tmp")
        });
        if !is_rotated {
            continue;
        }
        // Deleted or compressed since the directory was read.
        let Ok(metadata) = entry.metadata() else { continue };
        let inode = (metadata.dev(), metadata.ino());
        files.push(Rotated { modified: metadata.modified()?, path: entry.path(), inode });
    }
    Ok(files)
}

/// Wakes when something happens in a log's directory.
pub(crate) struct Watch {
    events: EventStream<Vec<u8>>,
}

impl Watch {
    /// Watches the directory `path` is in.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_FROM | WatchMask::MOVED_TO;
        inotify.watches().add(dir, mask)?;
        Ok(Self { events: inotify.into_event_stream(vec![0; 16 * 1024])? })
    }

    /// Returns after a change. Cancel-safe: what happens while nobody waits wakes the next waiter.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        match self.events.next().await {
            Some(event) => event.map(|_| ()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

    fn drained(follower: &mut Follower, writer: Writer) -> Vec<String> {
        let mut lines = Vec::new();
        follower
            .drain(writer, &mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            })
            .unwrap();
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn start(dir: &tempfile::TempDir) -> (PathBuf, Follower) {
        let path = dir.path().join("0.log");
        append(&path, "");
        let follower = Follower::new(path.clone(), LogFile::open(&path).unwrap());
        (path, follower)
    }

    #[test]
    fn a_rotation_loses_nothing_though_the_old_file_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower) = start(&dir);
        append(&path, "a\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["a"]);
        let old = dir.path().join("0.log.20260101-000000");
        append(&path, "b\n");
        fs::rename(&path, &old).unwrap();
        append(&path, "");
        assert_eq!(drained(&mut follower, Writer::Alive), ["b"]);
        append(&old, "c\n");
        append(&path, "d\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["c", "d"]);
        append(&old, "late\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["late"]);
    }

    #[test]
    fn several_rotations_between_two_looks_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower) = start(&dir);
        for round in 0..4 {
            append(&path, &format!("{round}\n"));
            fs::rename(&path, dir.path().join(format!("0.log.20260101-00000{round}"))).unwrap();
        }
        append(&path, "end");
        assert_eq!(drained(&mut follower, Writer::Gone), ["0", "1", "2", "3", "end"]);
    }

    #[test]
    fn a_late_line_does_not_make_an_old_file_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower) = start(&dir);
        let (first, second) = (dir.path().join("0.log.1"), dir.path().join("0.log.2"));
        append(&path, "a\n");
        fs::rename(&path, &first).unwrap();
        append(&path, "b\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["a", "b"]);
        std::thread::sleep(Duration::from_millis(20));
        append(&first, "late\n");
        fs::rename(&path, &second).unwrap();
        append(&path, "c\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["late", "c"]);
    }

    #[test]
    fn a_file_removed_after_rotation_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower) = start(&dir);
        append(&path, "a\n");
        fs::remove_file(&path).unwrap();
        append(&path, "b\n");
        assert_eq!(drained(&mut follower, Writer::Alive), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_writer_that_rotates_all_the_time_is_followed_line_by_line() {
        const LINES: usize = 3000;
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower) = start(&dir);
        let mut watch = Watch::new(&path).unwrap();
        let writer = std::thread::spawn(move || {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            for line in 0..LINES {
                writeln!(file, "{line}").unwrap();
                if line % 50 == 49 {
                    // As a kubelet does it: rename, then have the runtime open the file anew.
                    fs::rename(&path, path.with_file_name(format!("0.log.{:08}", line))).unwrap();
                    file = fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
                }
            }
        });
        let mut lines = Vec::new();
        while lines.len() < LINES {
            let changed = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
            let more = drained(&mut follower, Writer::Alive);
            let stuck = changed.is_err() && more.is_empty() && writer.is_finished();
            lines.extend(more);
            assert!(!stuck, "no more lines after {} of {LINES}", lines.len());
        }
        writer.join().unwrap();
        let expected: Vec<String> = (0..LINES).map(|line| line.to_string()).collect();
        assert_eq!(lines, expected);
    }
}
