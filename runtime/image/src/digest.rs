//! SHA-256 digests: parsing, and readers that hash what passes through.
//!
//! In: text, byte streams. Out: [`Digest`], [`HashingReader`]. Other algorithms are refused by name: the store's layout has
//! one blob directory.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::Error;

/// A SHA-256 digest, `sha256:<64 lower-case hex digits>` in text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    /// Parses `sha256:<hex>`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("sha256", hex)) if is_hex64(hex) => Ok(Self(hex.to_owned())),
            Some((algorithm @ ("sha384" | "sha512"), _)) => Err(Error::unsupported(
                format!("digest algorithm {algorithm}"),
                "the store keeps sha256 only",
            )),
            _ => {
                Err(Error::corrupt(format!("digest {:?}", shorten(text)), "expected sha256:<64 hex digits>"))
            }
        }
    }

    /// From the 64 hex digits alone.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        is_hex64(hex).then(|| Self(hex.to_owned()))
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    pub(crate) fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Text from outside, short enough for an error message.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 200 {
        text.to_owned()
    } else {
        text.chars().take(200).chain("…".chars()).collect()
    }
}

/// Hashes and counts what is read through it; more than `limit` bytes is an error.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0, limit }
    }

    /// Reads what is left and returns digest and byte count of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64, R)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest(hex(&self.hasher.finalize())), self.count, self.inner))
    }
}

/// Marks an `io::Error` as "more bytes than allowed", for callers that tell it from other failures.
#[derive(Debug, thiserror::Error)]
#[error("more than {limit} bytes")]
pub(crate) struct TooManyBytes {
    pub(crate) limit: u64,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.count += n as u64;
        if self.count > self.limit {
            return Err(io::Error::other(TooManyBytes { limit: self.limit }));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_must_be_sha256_with_64_lower_case_digits() {
        let good = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(Digest::parse(&good).unwrap().to_string(), good);
        for bad in
            ["", "sha256:", "sha256:abc", &good.to_uppercase(), &good[7..], "sha256:../../../../etc/passwd"]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(
            Digest::parse(&format!("sha512:{}", "ab".repeat(64))),
            Err(Error::Unsupported { .. })
        ));
    }

    #[test]
    fn a_hashing_reader_hashes_counts_and_stops_at_its_limit() {
        let (digest, count, _) = HashingReader::new(&b"hello"[..], 5).finish().unwrap();
        assert_eq!((digest, count), (Digest::of(b"hello"), 5));
        assert!(HashingReader::new(&b"hello"[..], 4).finish().is_err());
    }
}
