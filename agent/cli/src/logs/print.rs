//! Log lines as the container wrote them: parts joined, stdout to stdout, stderr to stderr.
//!
//! In: raw lines of a log file. Out: bytes. A line that is not in CRI format goes to stdout as it is.

use std::io::{self, Write};

use jiff::Timestamp;

use super::line::{self, LogLine, Part, Stream};
use crate::io::Io;

/// Whether each line begins with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamps {
    Shown,
    Hidden,
}

/// Prints one container's lines.
#[derive(Debug)]
pub(crate) struct Printer {
    stamps: Stamps,
    /// Lines before it are left out; none once a line has passed.
    since: Option<Timestamp>,
    unfinished_out: bool,
    unfinished_err: bool,
}

impl Printer {
    pub(crate) fn new(stamps: Stamps, since: Option<Timestamp>) -> Self {
        Self { stamps, since, unfinished_out: false, unfinished_err: false }
    }

    pub(crate) fn print(&mut self, raw: &[u8], io: &mut Io<'_>) -> io::Result<()> {
        let Some(line) = line::parse(raw) else {
            io.out.write_all(raw)?;
            return io.out.write_all(b"\n");
        };
        if self.is_too_early(&line) {
            return Ok(());
        }
        match line.stream {
            Stream::Stdout => write(&line, &mut io.out, self.stamps, &mut self.unfinished_out),
            Stream::Stderr => write(&line, &mut io.err, self.stamps, &mut self.unfinished_err),
        }
    }

    fn is_too_early(&mut self, line: &LogLine<'_>) -> bool {
        let Some(since) = self.since else { return false };
        let early = line.time.parse::<Timestamp>().is_ok_and(|time| time < since);
        if !early {
            self.since = None;
        }
        early
    }
}

fn write(line: &LogLine<'_>, out: &mut dyn Write, stamps: Stamps, unfinished: &mut bool) -> io::Result<()> {
    if stamps == Stamps::Shown && !*unfinished {
        write!(out, "{} ", line.time)?;
    }
    out.write_all(line.text)?;
    *unfinished = line.part == Part::Partial;
    if *unfinished { Ok(()) } else { out.write_all(b"\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(stamps: Stamps, since: Option<&str>, lines: &[&str]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut io = Io { out: Box::new(&mut out), err: Box::new(&mut err), terminal: false };
        let mut printer = Printer::new(stamps, since.map(|time| time.parse().unwrap()));
        for line in lines {
            printer.print(line.as_bytes(), &mut io).unwrap();
        }
        drop(io);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn parts_are_joined_and_streams_kept_apart() {
        let lines = [
            "2026-01-01T00:00:01Z stdout P he",
            "2026-01-01T00:00:02Z stderr F oops",
            "2026-01-01T00:00:03Z stdout F llo",
            "not a log line",
        ];
        let (out, err) = printed(Stamps::Hidden, None, &lines);
        assert_eq!((out.as_str(), err.as_str()), ("hello\nnot a log line\n", "oops\n"));
    }

    #[test]
    fn a_time_stands_once_before_each_line() {
        let lines = ["2026-01-01T00:00:01Z stdout P he", "2026-01-01T00:00:03Z stdout F llo"];
        assert_eq!(printed(Stamps::Shown, None, &lines).0, "2026-01-01T00:00:01Z hello\n");
    }

    #[test]
    fn lines_before_the_given_time_are_left_out() {
        let lines = ["2026-01-01T00:00:01Z stdout F a", "2026-01-01T00:00:02Z stdout F b"];
        assert_eq!(printed(Stamps::Hidden, Some("2026-01-01T00:00:02Z"), &lines).0, "b\n");
    }
}
