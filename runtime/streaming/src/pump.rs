//! Moves bytes between a process (or a pod's socket) and a client, one buffer per direction.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::{Input, Output, Terminal, TerminalSize};
use crate::channel::{Sink, Source};
use crate::limits;

/// Says when an output is at its end though something may still hold it open: after `ended` is cancelled, once nothing
/// has come for `quiet`.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    pub(crate) ended: CancellationToken,
    pub(crate) quiet: Duration,
}

impl Drain {
    /// For what has an end of its own.
    pub(crate) fn never() -> Drain {
        Drain { ended: CancellationToken::new(), quiet: Duration::ZERO }
    }

    async fn is_over(&self) {
        self.ended.cancelled().await;
        tokio::time::sleep(self.quiet).await;
    }
}

/// From a process to the client, until there is no more. An error is the client's.
pub(crate) async fn pump_out(mut from: Output, to: &mut Sink, drain: &Drain) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(limits::DATA_BYTES + 1);
        to.begin(&mut buffer);
        let head = buffer.len();
        let mut limited = (&mut from).take(u64::try_from(limits::DATA_BYTES).unwrap_or(u64::MAX));
        // Cancel-safe: what was read is in the buffer, and if the drain wins nothing was.
        let read = tokio::select! {
            biased;
            read = limited.read_buf(&mut buffer) => read,
            () = drain.is_over() => Ok(0),
        };
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "an output ended with an error");
                break;
            }
        }
        debug_assert!(buffer.len() > head);
        to.send(buffer.split().freeze()).await?;
    }
    to.finish();
    Ok(())
}

/// From the client to a process. A process that reads no more is no error: what comes then is thrown away.
/// An error is the client's.
pub(crate) async fn pump_in(mut from: Source, mut to: Input) -> io::Result<()> {
    while let Some(piece) = from.receive().await? {
        let written = async {
            to.write_all(&piece).await?;
            to.flush().await
        };
        if let Err(error) = written.await {
            debug!(%error, "an input is read no more");
            return Ok(());
        }
    }
    if let Err(error) = to.shutdown().await {
        debug!(%error, "an input was closed before its end");
    }
    Ok(())
}

/// Sets a terminal's size as often as the client says so.
pub(crate) async fn pump_sizes(mut from: Source, mut terminal: Box<dyn Terminal>) -> io::Result<()> {
    let mut sizes = Sizes::default();
    while let Some(piece) = from.receive().await? {
        // Of several, only the last one matters.
        let last = sizes.take(&piece).pop();
        if let Some(size) = last
            && let Err(error) = terminal.resize(size).await
        {
            debug!(%error, "a terminal's size was not set");
        }
    }
    Ok(())
}

/// Reads JSON documents one after the other, however they are cut into pieces. What is no size is passed over.
#[derive(Debug, Default)]
struct Sizes {
    rest: Vec<u8>,
}

impl Sizes {
    fn take(&mut self, piece: &Bytes) -> Vec<TerminalSize> {
        let mut sizes = Vec::new();
        for byte in piece {
            self.rest.push(*byte);
            if *byte == b'}' {
                sizes.extend(serde_json::from_slice::<TerminalSize>(&self.rest).ok());
                self.rest.clear();
            }
            if self.rest.len() > limits::RESIZE_BYTES {
                self.rest.clear();
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":-1}{\"height\": 5,\"width\":6}";
        let want = [TerminalSize { width: 80, height: 24 }, TerminalSize { width: 6, height: 5 }];
        for length in 1..text.len() {
            let mut sizes = Sizes::default();
            let got: Vec<_> =
                text.chunks(length).flat_map(|cut| sizes.take(&Bytes::copy_from_slice(cut))).collect();
            assert_eq!(got, want, "in pieces of {length}");
        }
    }

    #[test]
    fn a_size_that_never_ends_is_not_kept() {
        let mut sizes = Sizes::default();
        assert!(sizes.take(&vec![b'{'; 100 * limits::RESIZE_BYTES].into()).is_empty());
        assert!(sizes.rest.capacity() <= 4 * limits::RESIZE_BYTES);
    }
}
