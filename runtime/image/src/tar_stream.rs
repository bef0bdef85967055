//! Reads a tar stream entry by entry in constant memory, with bounds on everything the stream may claim.
//!
//! In: an uncompressed byte stream. Out: [`Entry`] values and, for regular files, their bytes through [`TarStream::read_body`].
//! Header fields are decoded by the `tar` crate; the walk over blocks, GNU long names and PAX records is here because that
//! crate reads extended headers of any size into memory. Sparse files are refused. It never touches the file system.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use tar::{EntryType, Header};

use crate::limits::LayerLimits;

const BLOCK: usize = 512;
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One member of the archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits including setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    pub(crate) size: u64,
    /// Extended attributes, name to value.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// Names and values of the extended attributes, with what a file system needs around each.
    pub(crate) fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len() + 16).sum()
    }
}

/// The walk over a tar stream.
pub(crate) struct TarStream<R> {
    inner: R,
    limits: LayerLimits,
    entries: u64,
    /// Bytes of the current entry's body not read yet.
    body: u64,
    padding: u64,
}

/// What extended headers say about the next entry.
#[derive(Debug, Default, Clone)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: BufRead> TarStream<R> {
    pub(crate) fn new(inner: R, limits: LayerLimits) -> Self {
        Self { inner, limits, entries: 0, body: 0, padding: 0 }
    }

    /// The stream behind the archive; what follows the end marker is still in it.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member, or `None` at the end. What is left of the current body is skipped.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of a foreign enum is members, told apart later"
    )]
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let (mut overrides, mut room) = (Overrides::default(), self.limits.extended_header);
        loop {
            self.skip_body()?;
            let Some(header) = self.next_header()? else { return Ok(None) };
            let size = header.entry_size()?;
            self.set_body(size);
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = parse_pax(&self.extended_body(&mut room)?)?;
                    records.iter().try_for_each(|r| overrides.apply(r, &self.limits))?;
                }
                // As with other engines: what builders write here is a comment, and it would count for every entry.
                EntryType::XGlobalHeader => drop(self.extended_body(&mut room)?),
                EntryType::GNULongName => overrides.path = Some(self.long_name(&mut room)?),
                EntryType::GNULongLink => overrides.link = Some(self.long_name(&mut room)?),
                _ => return self.entry(&header, overrides).map(Some),
            }
        }
    }

    /// The next bytes of the current body, as they lie in the stream's buffer; none at its end. They come again unless
    /// [`consume_body`](Self::consume_body) is told that they are done with.
    pub(crate) fn body_chunk(&mut self) -> io::Result<&[u8]> {
        let want = usize::try_from(self.body).unwrap_or(usize::MAX);
        if want == 0 {
            return Ok(&[]);
        }
        let chunk = self.inner.fill_buf()?;
        if chunk.is_empty() { Err(truncated()) } else { Ok(&chunk[..chunk.len().min(want)]) }
    }

    pub(crate) fn consume_body(&mut self, amount: usize) {
        self.body = self.body.saturating_sub(amount as u64);
        self.inner.consume(amount);
    }

    /// Reads from the current body; 0 at its end.
    pub(crate) fn read_body(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let chunk = self.body_chunk()?;
        let n = chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&chunk[..n]);
        self.consume_body(n);
        Ok(n)
    }

    fn set_body(&mut self, size: u64) {
        self.body = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_body(&mut self) -> io::Result<()> {
        let left = self.body.checked_add(self.padding).ok_or_else(|| invalid("an entry's size overflows"))?;
        let skipped = io::copy(&mut (&mut self.inner).take(left), &mut io::sink())?;
        (self.body, self.padding) = (0, 0);
        if skipped == left { Ok(()) } else { Err(truncated()) }
    }

    /// The next header block; `None` at a zero block or at the end of the stream.
    fn next_header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        match read_up_to(&mut self.inner, block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(truncated()),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(invalid(format!("more than {} entries", self.limits.entries)));
        }
        let sum = checksum(header.as_bytes());
        if header.cksum().ok() != Some(sum) {
            return Err(invalid("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// The body of an extended header, which must fit into what is left of the room for one entry's.
    fn extended_body(&mut self, room: &mut u64) -> io::Result<Vec<u8>> {
        *room = room.checked_sub(self.body).ok_or_else(|| {
            let limit = self.limits.extended_header;
            invalid(format!("an entry's extended headers have more than {limit} bytes"))
        })?;
        let mut bytes = vec![0; usize::try_from(self.body).map_err(io::Error::other)?];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|e| if e.kind() == io::ErrorKind::UnexpectedEof { truncated() } else { e })?;
        self.body = 0;
        Ok(bytes)
    }

    fn long_name(&mut self, room: &mut u64) -> io::Result<Vec<u8>> {
        let mut name = self.extended_body(room)?;
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn entry(&mut self, header: &Header, over: Overrides) -> io::Result<Entry> {
        let path = self.bounded(over.path.unwrap_or_else(|| header.path_bytes().into_owned()))?;
        let link = over.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let link = self.bounded(link.unwrap_or_default())?;
        let kind = kind_of(header, link, path.ends_with(b"/"))?;
        if let Some(size) = over.size {
            self.set_body(size);
        }
        if kind != Kind::File {
            // Some writers put the size of the target into link headers; no body follows such entries.
            self.set_body(0);
        }
        let mtime = match over.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        };
        Ok(Entry {
            path,
            kind,
            mode: number(&header.as_old().mode, header.mode())? & 0o7777,
            uid: id_of(over.uid.map_or_else(|| number(&header.as_old().uid, header.uid()), Ok)?)?,
            gid: id_of(over.gid.map_or_else(|| number(&header.as_old().gid, header.gid()), Ok)?)?,
            mtime,
            size: self.body,
            xattrs: over.xattrs,
        })
    }

    fn bounded(&self, path: Vec<u8>) -> io::Result<Vec<u8>> {
        if path.len() > self.limits.path {
            return Err(invalid(format!("a path has more than {} bytes", self.limits.path)));
        }
        if path.split(|b| *b == b'/').filter(|part| !part.is_empty()).count() > self.limits.depth {
            return Err(invalid(format!("a path has more than {} components", self.limits.depth)));
        }
        if path.contains(&0) {
            return Err(invalid("a path contains a zero byte"));
        }
        Ok(path)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest of a foreign enum is refused")]
fn kind_of(header: &Header, link: Vec<u8>, trailing_slash: bool) -> io::Result<Kind> {
    let device = || -> io::Result<(u32, u32)> {
        // The fields are at the same place in POSIX and GNU headers.
        let (major, minor) = (&header.as_bytes()[329..337], &header.as_bytes()[337..345]);
        Ok((
            number(major, header.device_major().map(Option::unwrap_or_default))?,
            number(minor, header.device_minor().map(Option::unwrap_or_default))?,
        ))
    };
    Ok(match header.entry_type() {
        EntryType::Regular | EntryType::Continuous if trailing_slash => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink if link.is_empty() => return Err(invalid("a symbolic link has no target")),
        EntryType::Symlink => Kind::Symlink { target: link },
        EntryType::Link => Kind::HardLink { target: link },
        EntryType::Char => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
        EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
        EntryType::Fifo => Kind::Fifo,
        EntryType::GNUSparse => return Err(invalid("sparse files are not supported")),
        other => {
            return Err(invalid(format!("entry type {:?} is not supported", char::from(other.as_byte()))));
        }
    })
}

impl Overrides {
    fn apply(&mut self, (key, value): &(String, Vec<u8>), limits: &LayerLimits) -> io::Result<()> {
        let number = || -> io::Result<u64> {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| invalid(format!("extended header {key} is not a number")))
        };
        match key.as_str() {
            "path" => self.path = Some(value.clone()),
            "linkpath" => self.link = Some(value.clone()),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => self.mtime = Some(parse_time(value)?),
            _ if key.starts_with("GNU.sparse.") => return Err(invalid("sparse files are not supported")),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.insert(name.as_bytes().to_vec(), value.clone());
                    if self.xattrs.len() > limits.xattrs {
                        return Err(invalid(format!("more than {} extended attributes", limits.xattrs)));
                    }
                }
            }
        }
        Ok(())
    }
}

/// PAX records: `<length> <key>=<value>\n`, the length counting itself.
fn parse_pax(mut bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let broken = || invalid("an extended header is malformed");
    let mut records = Vec::new();
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(broken)?;
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(broken)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(broken());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| broken())?;
        records.push((key.to_owned(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Seconds with an optional fraction, maybe negative.
fn parse_time(value: &[u8]) -> io::Result<(i64, u32)> {
    let broken = || invalid("a time in an extended header is malformed");
    let text = std::str::from_utf8(value).map_err(|_| broken())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| broken())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(broken());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| broken())?;
    // -1.5 is one and a half seconds before the epoch: -2 s + 0.5 s.
    if whole.starts_with('-') && nanos > 0 {
        return Ok((seconds.checked_sub(1).ok_or_else(broken)?, 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

/// A header field left empty counts as zero, as in other implementations.
fn number<T: Default>(field: &[u8], parsed: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(T::default()) } else { parsed }
}

fn id_of(id: u64) -> io::Result<u32> {
    // The largest value means "leave unchanged" to chown.
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid("a user or group id is out of range"))
}

fn checksum(block: &[u8; BLOCK]) -> u32 {
    block
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { u32::from(b' ') } else { u32::from(*b) })
        .sum()
}

fn read_up_to(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match reader.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

fn truncated() -> io::Error {
    invalid("the archive ends in the middle of an entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: &[u8]) -> TarStream<&[u8]> {
        TarStream::new(bytes, LayerLimits { entries: 10, extended_header: 4096, ..LayerLimits::default() })
    }

    fn header(size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o4755);
        header.set_mtime(7);
        header
    }

    #[test]
    fn long_names_and_extended_attributes_are_read() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/file", "d".repeat(150));
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.user.a", &b"v\0\n"[..]),
                ("mtime", b"-1.5"),
                ("uid", b"3000000"),
            ])
            .unwrap();
        builder.append_data(&mut header(3), "first", &b"abc"[..]).unwrap();
        builder.append_data(&mut header(5), &long, &b"hello"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut tar = stream(&bytes);
        let first = tar.next_entry().unwrap().unwrap();
        assert_eq!((first.mtime, first.uid, first.mode), ((-2, 500_000_000), 3_000_000, 0o4755));
        assert_eq!(first.xattrs[&b"user.a"[..]], b"v\0\n");
        let second = tar.next_entry().unwrap().unwrap();
        assert_eq!((second.path, second.mtime, second.xattrs.len()), (long.into_bytes(), (7, 0), 0));
        let mut body = [0; 16];
        assert_eq!(tar.read_body(&mut body).unwrap(), 5);
        assert_eq!(tar.read_body(&mut body).unwrap(), 0);
        assert!(tar.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_huge_extended_header_is_refused_before_it_is_read() {
        let mut long = header(u64::from(u32::MAX));
        long.set_entry_type(EntryType::GNULongName);
        long.set_cksum();
        let error = stream(long.as_bytes()).next_entry().unwrap_err();
        assert!(error.to_string().contains("more than 4096"), "{error}");
    }

    #[test]
    fn too_many_entries_truncation_and_bad_checksums_are_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        for i in 0..11 {
            builder.append_data(&mut header(1), format!("f{i}"), &b"x"[..]).unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        let count = |bytes: &[u8]| {
            let mut tar = stream(bytes);
            std::iter::from_fn(|| tar.next_entry().transpose())
                .collect::<Result<Vec<_>, _>>()
                .map(|e| e.len())
        };
        assert!(count(&bytes).unwrap_err().to_string().contains("entries"));
        assert!(count(&bytes[..700]).unwrap_err().to_string().contains("ends"));
        assert_eq!(count(&bytes[..2048]).unwrap(), 2);
        bytes[0] ^= 1;
        assert!(count(&bytes).unwrap_err().to_string().contains("checksum"));
    }
}
