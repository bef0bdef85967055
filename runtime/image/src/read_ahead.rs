//! Reads a stream on a thread of its own, a few chunks ahead of who uses it, so that decoding and hashing a layer goes on
//! while its files are written.
//!
//! In: a reader, and work to do with what it yields. Out: the work's result and the reader. Memory is bounded: `CHUNKS`
//! buffers of `CHUNK` bytes for a stream, used over and over. The thread ends before the call does.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Large enough that most files are one write and the hand-over costs nothing.
const CHUNK: usize = 128 << 10;
/// Chunks between the two threads.
const CHUNKS: usize = 4;

type Chunk = io::Result<Vec<u8>>;

/// Runs `work` on what `source` yields, read by another thread. The source comes back where it stopped: at its end, at its
/// first error, or a few chunks after `work` lost interest.
pub(crate) fn read_ahead<R: Read + Send, T>(source: R, work: impl FnOnce(Ahead) -> T) -> io::Result<(T, R)> {
    let (chunks, receiver) = sync_channel(CHUNKS);
    let (used, recycled) = channel();
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("layer-decoder".into());
        let reader = builder.spawn_scoped(scope, move || produce(source, &chunks, &recycled))?;
        let result = work(Ahead { receiver, used, chunk: Vec::new(), at: 0 });
        let source = reader.join().map_err(|_| io::Error::other("the decoding thread panicked"))?;
        Ok((result, source))
    })
}

fn produce<R: Read>(mut source: R, chunks: &SyncSender<Chunk>, recycled: &Receiver<Vec<u8>>) -> R {
    loop {
        let mut chunk = recycled.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        chunk.resize(CHUNK, 0);
        match fill(&mut source, &mut chunk) {
            Ok(0) => return source,
            Ok(n) => chunk.truncate(n),
            Err(e) => {
                // Whoever is gone does not want to know.
                drop(chunks.send(Err(e)));
                return source;
            }
        }
        if chunks.send(Ok(chunk)).is_err() {
            return source;
        }
    }
}

/// Fills the buffer, or less at the end of the stream.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The stream as its user sees it. An error is told once, after the chunks that came before it.
pub(crate) struct Ahead {
    receiver: Receiver<Chunk>,
    used: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            // The reading thread may have ended; then the buffer is not needed any more.
            drop(self.used.send(std::mem::take(&mut self.chunk)));
            self.at = 0;
            if let Ok(chunk) = self.receiver.recv() {
                self.chunk = chunk?;
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.chunk.len());
    }
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_the_source_comes_back_at_its_end() {
        let bytes: Vec<_> = (0..3 * CHUNK + 7).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (read, rest) = read_ahead(&bytes[..], |mut ahead| {
            let mut read = Vec::new();
            ahead.read_to_end(&mut read).map(|_| read)
        })
        .unwrap();
        assert!(read.unwrap() == bytes && rest.is_empty());
    }

    #[test]
    fn an_error_comes_after_what_was_read_and_losing_interest_ends_an_endless_source() {
        struct Breaks(usize);
        impl Read for Breaks {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("broken"))?;
                Ok(buf.len())
            }
        }
        let (result, _) = read_ahead(Breaks(2), |mut ahead| {
            let mut read = Vec::new();
            let error = ahead.read_to_end(&mut read).unwrap_err();
            (read.len(), error.to_string())
        })
        .unwrap();
        assert_eq!(result, (2 * CHUNK, "broken".into()));
        let (first, _) = read_ahead(io::repeat(7), |mut ahead| ahead.fill_buf().unwrap()[0]).unwrap();
        assert_eq!(first, 7);
    }
}
