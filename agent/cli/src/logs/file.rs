//! One log file, read line by line, that may still grow.
//!
//! In: an open file and where to begin. Out: whole lines; an unfinished last line waits until it is finished or
//! until it is asked for with [`LogFile::rest`]. A line over 1 MiB is handed out in pieces.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
};

const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Which file it is, whatever its name.
pub(crate) type Inode = (u64, u64);

/// A log file being read.
#[derive(Debug)]
pub(crate) struct LogFile {
    reader: BufReader<File>,
    line: Vec<u8>,
    inode: Inode,
}

impl LogFile {
    /// Opens `path` at its beginning.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, file), line: Vec::new(), inode })
    }

    pub(crate) fn inode(&self) -> Inode {
        self.inode
    }

    /// The file itself, for looking at it without reading on.
    pub(crate) fn file(&self) -> &File {
        self.reader.get_ref()
    }

    /// Goes on reading at `offset`.
    pub(crate) fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.line.clear();
        self.reader.seek(SeekFrom::Start(offset)).map(|_| ())
    }

    /// Hands every whole line to `sink`, up to the present end of the file.
    pub(crate) fn lines(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len()) as u64;
            let read = self.reader.by_ref().take(room).read_until(b'\n', &mut self.line)?;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            } else if read == 0 && self.line.len() < MAX_LINE_BYTES {
                return Ok(());
            } else if self.line.len() < MAX_LINE_BYTES {
                continue;
            }
            sink(&self.line)?;
            self.line.clear();
        }
    }

    /// Hands over a last line that nobody will finish any more.
    pub(crate) fn rest(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if !self.line.is_empty() {
            sink(&self.line)?;
            self.line.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(file: &mut LogFile) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        file.lines(&mut |line| {
            lines.push(line.to_vec());
            Ok(())
        })
        .unwrap();
        lines
    }

    #[test]
    fn an_unfinished_line_waits_for_its_end() {
        let mut writer = tempfile::NamedTempFile::new().unwrap();
        let mut log = LogFile::open(writer.path()).unwrap();
        write!(writer, "one\ntw").unwrap();
        assert_eq!(read(&mut log), [b"one"]);
        write!(writer, "o\nthree").unwrap();
        assert_eq!(read(&mut log), [b"two"]);
        let mut rest = Vec::new();
        log.rest(&mut |line| {
            rest.extend_from_slice(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(rest, b"three");
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut writer = tempfile::NamedTempFile::new().unwrap();
        writer.write_all(&vec![b'a'; MAX_LINE_BYTES + 10]).unwrap();
        writer.write_all(b"\nb\n").unwrap();
        let lengths: Vec<usize> =
            read(&mut LogFile::open(writer.path()).unwrap()).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 10, 1]);
    }
}
