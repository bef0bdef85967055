//! A container's output, from its pipes to its log file in the CRI format `<time> stdout|stderr F|P <text>`.
//!
//! In: bytes from pipes, or from a terminal, whose line ends are taken off. Out: lines in a file, several per write. A line longer than 16 KiB becomes several with tag P and
//! a last one with tag F. Memory is fixed: two buffers for all containers and at most one unfinished line per stream. When
//! the file cannot be written (disk full), the pipes are emptied all the same and the loss is counted and noted, in our own
//! log at once and in the container's as soon as it can be written again: a container must neither hang nor lose lines
//! silently because of its log. No rotation: the engine renames, then
//! [`LogFile::reopen`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};

use crate::clock;
use crate::journal;

/// The most bytes of one log line.
const MAX_LINE: usize = 16 * 1024;
const READ_SIZE: usize = 32 * 1024;
const OUTPUT_SIZE: usize = 64 * 1024;
/// What time, stream, tag and line end take at most.
const LINE_OVERHEAD: usize = 64;

/// Why a log file could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("opening log file {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("opening log file {}: not a regular file", path.display())]
    NotRegular { path: PathBuf },
}

/// Memory shared by all streams.
#[derive(Debug)]
pub(crate) struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            input: vec![0; MAX_LINE + READ_SIZE].into_boxed_slice(),
            output: Vec::with_capacity(OUTPUT_SIZE),
        }
    }
}

/// A container's log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// The last write ended inside a line.
    torn: bool,
    /// Lines lost since the last write that worked.
    lost: u64,
}

impl LogFile {
    /// Opens or creates the file; its directory has to be there.
    pub(crate) fn open(path: &Path) -> Result<Self, LogError> {
        Ok(Self { path: path.to_owned(), file: Some(open(path)?), torn: false, lost: 0 })
    }

    /// Closes the file and opens whatever has its name now. On failure output is lost until a later try works.
    pub(crate) fn reopen(&mut self) -> Result<(), LogError> {
        self.file = None;
        self.torn = false;
        self.file = Some(open(&self.path)?);
        Ok(())
    }

    fn write(&mut self, batch: &[u8]) {
        if batch.is_empty() {
            return;
        }
        if self.lost > 0 {
            return self.resume(batch);
        }
        if let Err((written, error)) = self.try_write(batch) {
            journal::note(&format!("log {}: output is being lost: {error}", self.path.display()));
            self.count_lost(batch.get(written..).unwrap_or_default());
        }
    }

    /// Goes on after lines were lost, with a line that tells how many: all of it or nothing, so that a disk that has room
    /// for a line now and then does not become a log of gaps.
    fn resume(&mut self, batch: &[u8]) {
        let mut both = gap(self.lost);
        both.extend_from_slice(batch);
        match self.try_write(&both) {
            Ok(()) => {
                journal::note(&format!("log {}: works again, {} lines lost", self.path.display(), self.lost));
                self.lost = 0;
            }
            Err((written, _)) => {
                if let Some(file) = &self.file {
                    self.torn |= !take_back(file, written);
                }
                self.count_lost(batch);
            }
        }
    }

    fn count_lost(&mut self, batch: &[u8]) {
        let lines = batch.iter().filter(|byte| **byte == b'\n').count();
        self.lost += u64::try_from(lines).unwrap_or(0);
    }

    /// On failure: how much was written, and why not the rest.
    fn try_write(&mut self, batch: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.file.is_none() {
            self.reopen().map_err(|error| (0, io::Error::other(journal::chain(&error))))?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.torn {
            file.write_all(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while written < batch.len() {
            match file.write(&batch[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    let start = batch[..written].iter().rev().take_while(|byte| **byte != b'\n').count();
                    self.torn = !take_back(file, start);
                    let error = failed.err().unwrap_or(io::ErrorKind::WriteZero.into());
                    return Err((if self.torn { written } else { written - start }, error));
                }
            }
        }
        Ok(())
    }
}

/// Takes back the last bytes written: the start of a line whose end found no room. False when they stay.
fn take_back(file: &File, count: usize) -> bool {
    let cut = || -> io::Result<()> {
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(u64::try_from(count).unwrap_or(0)))
    };
    count == 0 || cut().is_ok()
}

/// The line that stands where lines are missing.
fn gap(lost: u64) -> Vec<u8> {
    let mut line = Vec::with_capacity(2 * LINE_OVERHEAD);
    clock::push_rfc3339(&mut line, clock::now());
    line.extend_from_slice(format!(" stderr F pintle: {lost} lines of output were lost here\n").as_bytes());
    line
}

fn open(path: &Path) -> Result<File, LogError> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    options.append(true).create(true).mode(0o640).custom_flags(flags);
    let failed = |source| LogError::Open { path: path.to_owned(), source };
    let file = options.open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(LogError::NotRegular { path: path.to_owned() });
    }
    Ok(file)
}

/// What is left to do on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// The pipe is empty.
    Empty,
    /// The budget is used up.
    More,
    /// Nobody can write to the pipe any more.
    End,
}

/// One of a container's two output pipes.
#[derive(Debug)]
pub(crate) struct Stream {
    name: &'static str,
    pipe: File,
    /// A line ends with a carriage return too, which is not logged.
    is_terminal: bool,
    /// The start of a line whose end has not come yet; at most [`MAX_LINE`] bytes.
    unfinished: Vec<u8>,
    /// Who gets a copy.
    followers: Vec<File>,
}

/// The most followers of a stream; a new one takes the place of the oldest.
const MAX_FOLLOWERS: usize = 16;

impl Stream {
    /// `pipe` must not block.
    pub(crate) fn new(name: &'static str, pipe: OwnedFd) -> Self {
        let pipe = File::from(pipe);
        Self { name, pipe, is_terminal: false, unfinished: Vec::new(), followers: Vec::new() }
    }

    /// The output of a terminal, by its master, which must not block.
    pub(crate) fn of_terminal(master: OwnedFd) -> Self {
        Self { is_terminal: true, ..Self::new("stdout", master) }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Gives the descriptor a copy of everything from now on, as long as it takes it.
    pub(crate) fn follow(&mut self, descriptor: OwnedFd) {
        self.followers.retain(has_reader);
        if self.followers.len() == MAX_FOLLOWERS {
            self.followers.remove(0);
        }
        if rustix::io::ioctl_fionbio(&descriptor, true).is_ok() {
            self.followers.push(File::from(descriptor));
        }
    }

    /// Moves up to `reads` buffers from the pipe to the file, if there is one, and to those who follow.
    pub(crate) fn pump(
        &mut self,
        mut log: Option<&mut LogFile>,
        buffers: &mut Buffers,
        reads: usize,
    ) -> Pumped {
        for _ in 0..reads {
            let start = self.unfinished.len();
            let result = self.pipe.read(&mut buffers.input[start..start + READ_SIZE]);
            match result {
                Ok(0) => return self.end(log, buffers),
                Ok(count) => {
                    copy_to(&mut self.followers, &buffers.input[start..start + count]);
                    if let Some(log) = log.as_deref_mut() {
                        self.split(log, buffers, start + count);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pumped::Empty,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody holds the other side of a terminal any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return self.end(log, buffers),
                Err(error) => {
                    let path = log.map(|log| log.path.display().to_string()).unwrap_or_default();
                    journal::note(&format!("log {path}: reading {}: {error}", self.name));
                    return Pumped::End;
                }
            }
        }
        Pumped::More
    }

    fn end(&mut self, log: Option<&mut LogFile>, buffers: &mut Buffers) -> Pumped {
        if let Some(log) = log {
            self.finish(log, buffers);
        }
        Pumped::End
    }

    /// Writes what has no line end yet as a line.
    pub(crate) fn finish(&mut self, log: &mut LogFile, buffers: &mut Buffers) {
        if !self.unfinished.is_empty() {
            push_line(&mut buffers.output, log, (self.name, 'F'), &self.unfinished);
            self.unfinished = Vec::new();
            flush(&mut buffers.output, log);
        }
    }

    fn split(&mut self, log: &mut LogFile, buffers: &mut Buffers, length: usize) {
        let Buffers { input, output } = buffers;
        input[..self.unfinished.len()].copy_from_slice(&self.unfinished);
        let mut rest = &input[..length];
        // No line end is in the part that was there before.
        let mut searched = self.unfinished.len();
        while let Some(end) = rest[searched..].iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(searched + end);
            let line = line.strip_suffix(b"\r").filter(|_| self.is_terminal).unwrap_or(line);
            push_long_line(output, log, self.name, line);
            rest = &after[1..];
            searched = 0;
        }
        while rest.len() > MAX_LINE {
            push_line(output, log, (self.name, 'P'), &rest[..MAX_LINE]);
            rest = &rest[MAX_LINE..];
        }
        self.unfinished.clear();
        self.unfinished.extend_from_slice(rest);
        flush(output, log);
    }
}

/// Whether anybody can still read what is written to the pipe.
fn has_reader(follower: &File) -> bool {
    let mut looked = [PollFd::new(follower, PollFlags::OUT)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut looked, Some(&now)).is_err() || !looked[0].revents().contains(PollFlags::ERR)
}

/// A follower that has no room loses what does not fit; one that is gone is forgotten.
fn copy_to(followers: &mut Vec<File>, bytes: &[u8]) {
    followers.retain_mut(|follower| match follower.write(bytes) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    });
}

fn push_long_line(output: &mut Vec<u8>, log: &mut LogFile, name: &'static str, mut line: &[u8]) {
    while line.len() > MAX_LINE {
        push_line(output, log, (name, 'P'), &line[..MAX_LINE]);
        line = &line[MAX_LINE..];
    }
    push_line(output, log, (name, 'F'), line);
}

fn push_line(output: &mut Vec<u8>, log: &mut LogFile, (name, tag): (&str, char), text: &[u8]) {
    if output.len() + text.len() + LINE_OVERHEAD > OUTPUT_SIZE {
        flush(output, log);
    }
    clock::push_rfc3339(output, clock::now());
    for byte in [b" ", name.as_bytes(), b" ", if tag == 'P' { b"P" } else { b"F" }, b" ", text, b"\n"] {
        output.extend_from_slice(byte);
    }
}

fn flush(output: &mut Vec<u8>, log: &mut LogFile) {
    log.write(output);
    output.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn pumped(chunks: &[&[u8]]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (mut log, mut buffers) = (LogFile::open(&path).unwrap(), Buffers::new());
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (mut stream, mut writer) = (Stream::new("stdout", reader), File::from(writer));
        for chunk in chunks {
            writer.write_all(chunk).unwrap();
            assert_eq!(stream.pump(Some(&mut log), &mut buffers, 100), Pumped::Empty);
        }
        drop(writer);
        assert_eq!(stream.pump(Some(&mut log), &mut buffers, 100), Pumped::End);
        let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        fs::read_to_string(&path).unwrap().lines().map(without_time).collect()
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(pumped(&[b"a", b"b\n\nc", b"", b"d"]), ["stdout F ab", "stdout F ", "stdout F cd"]);
    }

    #[test]
    fn a_line_is_cut_only_when_it_is_longer_than_16_kib() {
        let exact = "x".repeat(MAX_LINE);
        assert_eq!(pumped(&[exact.as_bytes(), b"\n"]), [format!("stdout F {exact}")]);
        let longer = format!("{exact}{exact}yz\n");
        let expected = [format!("stdout P {exact}"), format!("stdout P {exact}"), "stdout F yz".to_owned()];
        assert_eq!(pumped(&[longer.as_bytes()]), expected);
        assert_eq!(pumped(&[&longer.as_bytes()[..20_000], &longer.as_bytes()[20_000..]]), expected);
    }

    #[test]
    fn a_log_path_that_is_a_link_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        assert!(matches!(LogFile::open(&link), Err(LogError::Open { .. })));
        assert!(LogFile::open(dir.path()).is_err());
        assert!(LogFile::open(&dir.path().join("missing/0.log")).is_err());
    }

    #[test]
    fn a_full_disk_loses_lines_counted_and_never_blocks() {
        let (mut log, mut buffers) = (LogFile::open(Path::new("/dev/null")), Buffers::new());
        assert!(log.is_err());
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        log = Ok(LogFile { path: "/dev/full".into(), file: Some(full), torn: false, lost: 0 });
        let mut log = log.unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut stream = Stream::new("stderr", reader);
        File::from(writer).write_all(b"one\ntwo\nthree\n").unwrap();
        assert_eq!(stream.pump(Some(&mut log), &mut buffers, 10), Pumped::End);
        assert_eq!(log.lost, 3);
    }

    #[test]
    fn a_log_that_can_be_written_again_tells_how_many_lines_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.write(b"t stdout F before\n");
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.write(b"t stdout F one\nt stdout F two\n");
        log.write(b"t stdout F three\n");
        log.reopen().unwrap();
        log.write(b"t stdout F after\n");
        log.write(b"t stdout F more\n");
        let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        let lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(without_time).collect();
        let gap = "stderr F pintle: 3 lines of output were lost here";
        assert_eq!(lines, ["stdout F before", gap, "stdout F after", "stdout F more"]);
    }

    #[test]
    fn a_line_that_found_room_for_its_start_only_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "whole\nhal").unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(take_back(&file, 0));
        assert!(take_back(&file, 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
        assert!(!take_back(&File::open(&path).unwrap(), 3));
    }
}
