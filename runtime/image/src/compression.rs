//! Decompression of layers and archives, by what the bytes are and not by what a media type claims.
//!
//! In: a byte stream, plain or compressed with gzip or zstd. Out: a plain stream in constant memory. Other formats come out
//! unchanged and fail later as bad tar files.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::digest::TooManyBytes;
use crate::limits::LayerLimits;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest zstd window accepted (128 MiB), so that a frame cannot ask for gigabytes of memory.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A decompressed stream.
pub(crate) enum Decompressed<R: Read> {
    Plain(Rest<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Rest<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Rest<R>>>>),
}

/// The stream with the bytes looked at put back.
pub(crate) type Rest<R> = io::Chain<Cursor<Vec<u8>>, R>;

impl<R: Read> Decompressed<R> {
    /// Looks at the first bytes and chooses the decoder.
    pub(crate) fn detect(mut inner: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(ZSTD.len());
        (&mut inner).take(ZSTD.len() as u64).read_to_end(&mut head)?;
        let is_gzip = head.starts_with(&GZIP);
        // Skippable frames (0x184D2A50 to 5F) may come first in zstd files.
        let is_zstd =
            head == ZSTD || (head.len() == 4 && head[0] & 0xf0 == 0x50 && head[1..] == [0x2a, 0x4d, 0x18]);
        let rest = Cursor::new(head).chain(inner);
        Ok(if is_gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, rest))))
        } else if is_zstd {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(64 << 10, rest))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Self::Zstd(Box::new(decoder))
        } else {
            Self::Plain(rest)
        })
    }

    /// The compressed stream, for reading what the decoder left of it.
    pub(crate) fn into_inner(self) -> R {
        match self {
            Self::Plain(rest) => rest.into_inner().1,
            Self::Gzip(decoder) => decoder.into_inner().into_inner().into_inner().1,
            Self::Zstd(decoder) => decoder.finish().into_inner().into_inner().1,
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            // zstd takes that for a stalled stream.
            return Ok(0);
        }
        match self {
            Self::Plain(rest) => rest.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// A decompressed stream of unknown compressed size, which may only yield what its limits allow for what was read so far.
pub(crate) struct Bounded<R: Read> {
    plain: Decompressed<Counted<R>>,
    compressed: Rc<Cell<u64>>,
    yielded: u64,
    limits: LayerLimits,
}

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R, limits: LayerLimits) -> io::Result<Self> {
        let compressed = Rc::new(Cell::new(0));
        let plain = Decompressed::detect(Counted { inner, count: Rc::clone(&compressed) })?;
        Ok(Self { plain, compressed, yielded: 0, limits })
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.plain.read(buf)?;
        self.yielded += n as u64;
        let limit = self.limits.unpacked_bytes(self.compressed.get());
        if self.yielded > limit {
            return Err(io::Error::other(TooManyBytes { limit }));
        }
        Ok(n)
    }
}

/// Counts what is read through it.
pub(crate) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_bounded_stream_yields_what_its_ratio_allows_and_no_more() {
        let limits = LayerLimits { free_bytes: 1 << 20, ratio: 10, ..LayerLimits::default() };
        let yields = |bytes: &[u8]| {
            let mut stream = Bounded::new(bytes, limits).unwrap();
            io::copy(&mut stream, &mut io::sink())
        };
        let zeros = vec![0; 2 << 20];
        let error = yields(&zstd::encode_all(&zeros[..], 3).unwrap()).unwrap_err();
        assert!(error.get_ref().unwrap().is::<TooManyBytes>());
        assert_eq!(yields(&zeros).unwrap(), 2 << 20);
    }

    #[test]
    fn gzip_zstd_and_plain_streams_are_told_apart_by_their_bytes() {
        let text = b"some text, some text, some text";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        let mut members = gzip.finish().unwrap();
        members.extend(members.clone());
        for (bytes, times) in
            [(text.to_vec(), 1), (members, 2), (zstd::encode_all(&text[..], 3).unwrap(), 1), (Vec::new(), 0)]
        {
            let mut out = Vec::new();
            Decompressed::detect(&bytes[..]).unwrap().read_to_end(&mut out).unwrap();
            assert_eq!(out, text.repeat(times));
        }
    }
}
