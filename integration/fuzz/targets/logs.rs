//! Fuzzes container logs: the supervisor's writer, and the command line's reader.
//!
//! In: a first byte that says how to cut, then what a container writes, or what is in a log file. Checked: no panic; what
//! was written is read back byte by byte; no line of the file is longer than the format allows; the last N lines are
//! the last N; of a damaged file every byte that the reader accepts is told once.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the supervisor and of the command line")]

#[path = "../../../runtime/shim/src/clock.rs"]
mod clock;
#[path = "../../../agent/cli/src/duration.rs"]
mod duration;
#[path = "../../../agent/cli/src/io.rs"]
mod io;
#[path = "../../../runtime/shim/src/journal.rs"]
mod journal;
mod reader;
#[path = "../../../runtime/shim/src/logs.rs"]
mod writer;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use reader::print::{Printer, Stamps};
use writer::{Buffers, LogFile, Pumped, Stream};

/// 16 KiB of text, and what stands before it.
const MAX_LINE: usize = 16 * 1024 + 64;
/// Enough for a line in three parts.
const MAX_WRITTEN: usize = 48 * 1024;
/// Each is a few system calls.
const MAX_PIECES: usize = 32;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
});

fuzz_target!(|data: &[u8]| {
    let Some((how, text)) = data.split_first() else { return };
    // What a container writes is repeated, so that short inputs make long lines too.
    let written = text.repeat((1 << (how >> 5)).min(MAX_WRITTEN / text.len().max(1) + 1));
    round_trip(&written, (usize::from(how & 0x1f) * 37 + 1).max(written.len() / MAX_PIECES));
    damaged(text);
    if let Ok(text) = std::str::from_utf8(text) {
        let now = jiff::Timestamp::UNIX_EPOCH;
        if let Ok(since) = reader::since::parse(text, now) {
            assert!(since.to_string().parse().is_ok_and(|again: jiff::Timestamp| again == since));
        }
    }
});

/// A container writes `text` in pieces of `size` bytes; `logs` prints it.
fn round_trip(text: &[u8], size: usize) {
    let path = DIR.path().join("0.log");
    drop(std::fs::remove_file(&path));
    let (mut log, mut buffers) = (LogFile::open(&path).expect("opened"), Buffers::new());
    let (pipe, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("a pipe");
    let (mut stream, mut end) = (Stream::new("stdout", pipe), File::from(end));
    for piece in text.chunks(size) {
        end.write_all(piece).expect("the pipe has room");
        assert_eq!(stream.pump(Some(&mut log), &mut buffers, 4), Pumped::Empty);
    }
    drop(end);
    assert_eq!(stream.pump(Some(&mut log), &mut buffers, 4), Pumped::End);
    let mut expected = text.to_vec();
    if text.last().is_some_and(|last| *last != b'\n') {
        expected.push(b'\n');
    }
    let file = std::fs::read(&path).expect("read");
    assert!(file.split(|byte| *byte == b'\n').all(|line| line.len() <= MAX_LINE));
    let (out, err) = printed(&path, 0);
    assert!(out == expected && err.is_empty(), "what was written is not what is read");
    for count in [1, 2, 7] {
        let start = reader::tail::start_of_last(&File::open(&path).expect("opened"), count).expect("found");
        let lines: Vec<&[u8]> = expected.split_inclusive(|byte| *byte == b'\n').collect();
        let last = lines[lines.len().saturating_sub(usize::try_from(count).expect("small"))..].concat();
        assert!(printed(&path, start).0 == last, "not the last {count} lines");
    }
}

/// A log file as somebody else, or a crash, left it.
fn damaged(text: &[u8]) {
    let path = DIR.path().join("damaged.log");
    std::fs::write(&path, text).expect("written");
    let (out, err) = printed(&path, 0);
    assert!(out.len() + err.len() <= text.len() + 1, "more is told than there is");
    let mut before = text.len() as u64;
    for count in 0..5 {
        let start = reader::tail::start_of_last(&File::open(&path).expect("opened"), count).expect("found");
        assert!(start <= before, "more lines begin later");
        let begins_a_line =
            start == 0 || text.get(usize::try_from(start).expect("small") - 1) == Some(&b'\n');
        assert!(begins_a_line || start == text.len() as u64, "it begins inside a line");
        before = start;
    }
    // Times of any kind, and stamps.
    let since = "2026-01-01T00:00:00Z".parse().ok();
    let mut out = Vec::new();
    let io = &mut io::Io { out: Box::new(&mut out), err: Box::new(std::io::sink()), terminal: false };
    let mut printer = Printer::new(Stamps::Shown, since);
    for line in text.split(|byte| *byte == b'\n') {
        printer.print(line, io).expect("memory takes it");
    }
}

fn printed(path: &Path, start: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = io::Io { out: Box::new(&mut out), err: Box::new(&mut err), terminal: false };
    let mut printer = Printer::new(Stamps::Hidden, None);
    let mut file = reader::file::LogFile::open(path).expect("opened");
    file.seek(start).expect("sought");
    file.lines(&mut |line| printer.print(line, &mut io)).expect("read");
    file.rest(&mut |line| printer.print(line, &mut io)).expect("read");
    drop(io);
    (out, err)
}
