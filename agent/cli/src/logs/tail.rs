//! Where the last N lines of a log file begin.
//!
//! In: a file and N. Out: an offset. Reads backwards in blocks and holds one block in memory, however long the
//! file. A line the container wrote counts once, though it may stand in several parts in the file.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::line::{self, Part};

const BLOCK_BYTES: u64 = 64 * 1024;
/// Enough for time, stream and tag.
const HEADER_BYTES: usize = 96;

/// Offset of the first of the last `count` lines; 0 when there are not that many.
pub(crate) fn start_of_last(file: &File, count: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if count == 0 {
        return Ok(length);
    }
    let mut scan = Scan { file, count, seen: 0, newest: true, after: length };
    let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or_default()];
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        let piece = &mut block[..usize::try_from(end - begin).unwrap_or_default()];
        file.read_exact_at(piece, begin)?;
        for (at, _) in piece.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n') {
            if let Some(found) = scan.line_begins(begin + at as u64 + 1)? {
                return Ok(found);
            }
        }
        end = begin;
    }
    Ok(scan.line_begins(0)?.unwrap_or(0))
}

/// What has been seen on the way back.
struct Scan<'a> {
    file: &'a File,
    count: u64,
    seen: u64,
    /// Nothing has been counted yet.
    newest: bool,
    /// Where the line after the one looked at begins.
    after: u64,
}

impl Scan<'_> {
    /// Takes the line in the file that begins at `offset` into account.
    fn line_begins(&mut self, offset: u64) -> io::Result<Option<u64>> {
        if offset == self.after {
            return Ok(None);
        }
        // Parts in the middle of a line belong to the end that was counted before them.
        let ends_a_line = self.newest || self.part_at(offset)? == Part::Full;
        if ends_a_line && self.seen == self.count {
            return Ok(Some(self.after));
        }
        self.seen += u64::from(ends_a_line);
        self.newest = false;
        self.after = offset;
        Ok(None)
    }

    fn part_at(&self, offset: u64) -> io::Result<Part> {
        let mut header = [0; HEADER_BYTES];
        let read = self.file.read_at(&mut header, offset)?;
        Ok(line::parse(&header[..read]).map_or(Part::Full, |line| line.part))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000000Z";

    fn last(text: &str, count: u64) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let start = start_of_last(file.as_file(), count).unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[test]
    fn the_last_lines_are_found() {
        let text: String = (0..5).map(|n| format!("{TIME} stdout F {n}\n")).collect();
        assert_eq!(last(&text, 2), format!("{TIME} stdout F 3\n{TIME} stdout F 4\n"));
        assert_eq!(last(&text, 5), text);
        assert_eq!(last(&text, 9), text);
        assert_eq!(last(&text, 0), "");
        assert_eq!(last("", 3), "");
    }

    #[test]
    fn a_line_in_parts_counts_once() {
        let text = format!("{TIME} stdout F a\n{TIME} stdout P b\n{TIME} stdout P c\n{TIME} stdout F d\n");
        let expected = format!("{TIME} stdout P b\n{TIME} stdout P c\n{TIME} stdout F d\n");
        assert_eq!(last(&text, 1), expected);
        assert_eq!(last(&text, 2), text);
    }

    #[test]
    fn an_unfinished_last_line_counts() {
        let text = format!("{TIME} stdout F a\n{TIME} stdout F b\n{TIME} stdout F c");
        assert_eq!(last(&text, 2), format!("{TIME} stdout F b\n{TIME} stdout F c"));
    }

    #[test]
    fn blocks_do_not_matter() {
        let long = "x".repeat(1000);
        let lines: Vec<String> = (0..500).map(|n| format!("{TIME} stdout F {n} {long}\n")).collect();
        for count in [1, 63, 64, 65, 130, 499, 500] {
            let expected: String = lines[500 - count..].concat();
            assert_eq!(last(&lines.concat(), count as u64), expected, "{count}");
        }
    }
}
