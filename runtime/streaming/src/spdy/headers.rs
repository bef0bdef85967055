//! Header blocks: names and values, compressed in one zlib stream per direction that lives as long as the connection.
//!
//! In: compressed blocks of any content. Out: names and values within `limits`, or an error, after which the connection
//! is lost, because both ends no longer have the same history. Does no IO.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;
use crate::limits;

/// Names (lower case) and values of a stream, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds a header; its name is written in lower case, as SPDY demands.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Headers {
        self.0.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first value of `name`, which is compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.split('\0').next().unwrap_or_default())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Why a header block cannot be read or written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("header block: not a zlib stream with SPDY's dictionary")]
    Zlib,
    #[error("header block: over {} bytes", limits::HEADER_BYTES)]
    TooLarge,
    #[error("header block: {0} headers, at most {max} are taken", max = limits::HEADERS)]
    TooMany(u32),
    #[error("header block: ends within a header or goes on after the last")]
    Length,
    #[error("header block: a name or value is not UTF-8")]
    Text,
}

/// Writes header blocks.
#[derive(Debug)]
pub struct Compressor(Compress);

impl Compressor {
    /// A window of 2 KiB: the dictionary fits, and nothing we send gains from more.
    pub fn new() -> Result<Compressor, HeaderError> {
        let mut zlib = Compress::new_with_window_bits(Compression::fast(), true, 11);
        zlib.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Zlib)?;
        Ok(Compressor(zlib))
    }

    /// The compressed block of `headers`.
    pub fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        let plain = plain(headers)?;
        let mut out = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - before).map_err(|_| HeaderError::Zlib)?;
            let rest = plain.get(taken..).unwrap_or_default();
            out.reserve(256);
            self.0.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(|_| HeaderError::Zlib)?;
            let done = usize::try_from(self.0.total_in() - before).map_err(|_| HeaderError::Zlib)?;
            if done == plain.len() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

fn plain(headers: &Headers) -> Result<Vec<u8>, HeaderError> {
    let number = |length: usize| u32::try_from(length).map_err(|_| HeaderError::TooLarge);
    let mut plain = Vec::new();
    plain.extend_from_slice(&number(headers.0.len())?.to_be_bytes());
    for (name, value) in &headers.0 {
        for text in [name, value] {
            plain.extend_from_slice(&number(text.len())?.to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
    }
    if plain.len() > limits::HEADER_BYTES { Err(HeaderError::TooLarge) } else { Ok(plain) }
}

/// Reads header blocks.
#[derive(Debug)]
pub struct Decompressor(Decompress);

impl Default for Decompressor {
    fn default() -> Decompressor {
        Decompressor(Decompress::new(true))
    }
}

impl Decompressor {
    /// The headers of the next block.
    pub fn headers(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::new();
        loop {
            // One byte of room more than is allowed shows that there is more.
            let room = (limits::HEADER_BYTES + 1 - out.len()).min(4096);
            out.reserve_exact(room);
            let (before_in, before_out) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before_in).map_err(|_| HeaderError::Zlib)?;
            block = block.get(taken..).ok_or(HeaderError::Zlib)?;
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Zlib)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Zlib),
                Ok(flate2::Status::StreamEnd) => return Err(HeaderError::Zlib),
                Ok(flate2::Status::Ok | flate2::Status::BufError) => {}
            }
            if out.len() > limits::HEADER_BYTES {
                return Err(HeaderError::TooLarge);
            }
            if block.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            if taken == 0 && out.len() == before_out {
                return Err(HeaderError::Zlib);
            }
        }
    }
}

fn parse(plain: &[u8]) -> Result<Headers, HeaderError> {
    let mut rest = plain;
    let count = number(&mut rest)?;
    if usize::try_from(count).map_err(|_| HeaderError::TooMany(count))? > limits::HEADERS {
        return Err(HeaderError::TooMany(count));
    }
    let mut headers = Headers::default();
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        headers.0.push((name, text(&mut rest)?.to_owned()));
    }
    if rest.is_empty() { Ok(headers) } else { Err(HeaderError::Length) }
}

fn number(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, HeaderError> {
    let length = usize::try_from(number(rest)?).map_err(|_| HeaderError::Length)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(HeaderError::Length)?;
    *rest = after;
    std::str::from_utf8(bytes).map_err(|_| HeaderError::Text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compresses a plain block of any content, as a peer of no good will.
    fn pack(plain: &[u8]) -> Vec<u8> {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let mut out = Vec::with_capacity(plain.len() + 1024);
        zlib.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    fn read(plain: &[u8]) -> Result<Headers, HeaderError> {
        Decompressor::default().headers(&pack(plain))
    }

    #[test]
    fn a_block_begins_with_the_dictionarys_checksum() {
        let block = Compressor::new().unwrap().block(&Headers::default().with("port", "80")).unwrap();
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn names_are_lower_case_and_found_in_any() {
        let headers = read(b"\0\0\0\x01\0\0\0\x0astreamType\0\0\0\x05error").unwrap();
        assert_eq!(headers.get("StreamType"), Some("error"));
        assert_eq!(headers.iter().next(), Some(("streamtype", "error")));
        assert_eq!(headers.get("port"), None);
    }

    #[test]
    fn malformed_blocks_are_refused_by_what_is_wrong() {
        assert_eq!(read(b"\0\0"), Err(HeaderError::Length));
        assert_eq!(read(b"\0\0\0\x01\0\0\0\x09a"), Err(HeaderError::Length));
        assert_eq!(read(b"\0\0\0\0x"), Err(HeaderError::Length));
        assert_eq!(read(b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0"), Err(HeaderError::Text));
        assert_eq!(read(&u32::MAX.to_be_bytes()), Err(HeaderError::TooMany(u32::MAX)));
        assert_eq!(Decompressor::default().headers(b"no zlib"), Err(HeaderError::Zlib));
        let mut other = Compress::new(Compression::best(), true);
        other.set_dictionary(b"another").unwrap();
        let mut block = Vec::with_capacity(100);
        other.compress_vec(b"\0\0\0\0", &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Decompressor::default().headers(&block), Err(HeaderError::Zlib));
    }

    #[test]
    fn a_block_that_swells_is_refused() {
        let bomb = pack(&vec![0; 60 * limits::HEADER_BYTES]);
        assert!(bomb.len() < limits::CONTROL_FRAME_BYTES, "{}", bomb.len());
        assert_eq!(Decompressor::default().headers(&bomb), Err(HeaderError::TooLarge));
    }

    proptest! {
        #[test]
        fn blocks_read_back_as_they_were_written_one_after_the_other(
            blocks in proptest::collection::vec(proptest::collection::vec(("[a-z-]{0,20}", ".{0,200}"), 0..8), 1..8)
        ) {
            let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::default());
            for block in blocks {
                let headers = Headers(block);
                let packed = compressor.block(&headers).unwrap();
                prop_assert_eq!(decompressor.headers(&packed).unwrap(), headers);
            }
        }

        #[test]
        fn no_bytes_make_the_decompressor_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(Decompressor::default().headers(&bytes));
            drop(parse(&bytes));
        }
    }
}
