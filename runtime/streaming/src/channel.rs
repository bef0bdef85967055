//! A direction of a client's connection, whatever the protocol: SPDY streams, or numbered WebSocket channels.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::spdy;

/// What the client sends.
#[derive(Debug)]
pub(crate) enum Source {
    Spdy(spdy::Receiver),
    /// Ended by dropping the other end.
    WebSocket(mpsc::Receiver<Bytes>),
}

impl Source {
    /// The next piece; `None` when the client has finished. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Source::Spdy(receiver) => receiver.receive().await,
            Source::WebSocket(receiver) => Ok(receiver.recv().await),
        }
    }
}

/// How channels are written in WebSocket messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// The first byte is the channel's number.
    Binary,
    /// The first character is the channel's digit, the rest base64, in text messages.
    Base64,
}

/// What the client is sent.
#[derive(Debug)]
pub(crate) enum Sink {
    Spdy(spdy::Sender),
    WebSocket { channel: u8, coding: Coding, messages: mpsc::Sender<Bytes> },
}

impl Sink {
    /// Puts before a piece what has to stand there.
    pub(crate) fn begin(&self, piece: &mut BytesMut) {
        if let Sink::WebSocket { channel, .. } = self {
            piece.put_u8(*channel);
        }
    }

    /// Sends a piece that was begun with `begin`.
    pub(crate) async fn send(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Sink::Spdy(sender) => sender.send(piece).await,
            Sink::WebSocket { coding, messages, .. } => {
                let message = match coding {
                    Coding::Binary => piece,
                    Coding::Base64 => base64_message(&piece),
                };
                messages.send(message).await.map_err(|_| io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    /// Sends `text` as one piece.
    pub(crate) async fn say(&mut self, text: &[u8]) -> io::Result<()> {
        let mut piece = BytesMut::with_capacity(text.len() + 1);
        self.begin(&mut piece);
        piece.extend_from_slice(text);
        self.send(piece.freeze()).await
    }

    /// Says that nothing more comes, if the protocol can say it.
    pub(crate) fn finish(&mut self) {
        if let Sink::Spdy(sender) = self {
            sender.finish();
        }
    }
}

fn base64_message(piece: &Bytes) -> Bytes {
    let Some((channel, payload)) = piece.split_first() else { return Bytes::new() };
    let mut message = String::with_capacity(payload.len().div_ceil(3) * 4 + 1);
    message.push(char::from(b'0'.wrapping_add(*channel)));
    STANDARD.encode_string(payload, &mut message);
    message.into()
}

/// Channel and payload of a message as it came; `None` if it is none.
pub(crate) fn parse_message(coding: Coding, mut message: Bytes) -> Option<(u8, Bytes)> {
    let first = *message.first()?;
    let payload = message.split_off(1);
    match coding {
        Coding::Binary => Some((first, payload)),
        Coding::Base64 => {
            let channel = first.checked_sub(b'0').filter(|channel| *channel < 10)?;
            Some((channel, STANDARD.decode(&payload).ok()?.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_without_a_channel_or_of_no_base64_are_none() {
        assert_eq!(parse_message(Coding::Binary, Bytes::new()), None);
        assert_eq!(parse_message(Coding::Base64, Bytes::from_static(b"x")), None);
        assert_eq!(parse_message(Coding::Base64, Bytes::from_static(b"0?")), None);
        let empty = parse_message(Coding::Binary, Bytes::from_static(b"\x04"));
        assert_eq!(empty, Some((4, Bytes::new())));
    }

    proptest! {
        #[test]
        fn base64_messages_read_back(channel in 0u8..10, payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut piece = BytesMut::from(&[channel][..]);
            piece.extend_from_slice(&payload);
            let message = base64_message(&piece.freeze());
            prop_assert!(message.is_ascii());
            prop_assert_eq!(parse_message(Coding::Base64, message), Some((channel, payload.into())));
        }
    }
}
