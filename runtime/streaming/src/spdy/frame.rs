//! SPDY/3.1 frames: bytes in, frames out, and back. Pure.
//!
//! In: whatever a peer sends. Out: one frame after the other; DATA in pieces as they arrive, so that no frame is ever
//! held whole. Header blocks stay compressed (see `headers`). What it does not do: say whether a frame may come now.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits;

const VERSION: u16 = 3;
const HEADER: usize = 8;
const FIN: u8 = 1;
/// SETTINGS entry for the window that each stream begins with.
pub(crate) const INITIAL_WINDOW: u32 = 7;

/// Why a stream ends at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    FlowControlError = 7,
    StreamAlreadyClosed = 9,
}

/// One frame, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    /// The window that streams begin with, if the frame names it.
    Settings {
        initial_window: Option<u32>,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A piece of a DATA frame; `fin` comes with the last one.
    Data {
        stream: u32,
        payload: Bytes,
        fin: bool,
    },
    /// A control frame of a type that SPDY/3.1 does not have: ignored, as it says.
    Unknown(u16),
}

/// Why bytes are not SPDY/3.1. The connection is lost with any of them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("frame: SPDY version {0}, only 3 is spoken")]
    Version(u16),
    #[error("frame: type {kind} of {length} bytes, at most {} are taken", limits::CONTROL_FRAME_BYTES)]
    TooLarge { kind: u16, length: usize },
    #[error("frame: type {kind} cannot have {length} bytes")]
    Length { kind: u16, length: usize },
    #[error("frame: type {0} for stream 0")]
    StreamZero(u16),
    #[error("frame: data for stream 0")]
    DataForZero,
    #[error("frame: {0} settings, at most {max} are taken", max = limits::SETTINGS)]
    Settings(u32),
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    data: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    /// The next frame in `buffer`, which it is taken from; `None` if more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.piece(buffer));
        }
        let Some(head) = buffer.first_chunk::<HEADER>().copied() else { return Ok(None) };
        let [first, second, third, fourth, flags, length @ ..] = head;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if first & 0x80 == 0 {
            let stream = u32::from_be_bytes([first, second, third, fourth]);
            if stream == 0 {
                return Err(FrameError::DataForZero);
            }
            buffer.advance(HEADER);
            self.data = Some(Pending { stream, left: length, fin: flags & FIN != 0 });
            return Ok(self.piece(buffer));
        }
        let version = u16::from_be_bytes([first & 0x7f, second]);
        let kind = u16::from_be_bytes([third, fourth]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > limits::CONTROL_FRAME_BYTES {
            return Err(FrameError::TooLarge { kind, length });
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        buffer.advance(HEADER);
        control(kind, flags, buffer.split_to(length).freeze()).map(Some)
    }

    fn piece(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        let pending = self.data.as_mut()?;
        let here = pending.left.min(buffer.len());
        if here == 0 && pending.left > 0 {
            return None;
        }
        pending.left -= here;
        let last = pending.left == 0;
        let frame = Frame::Data {
            stream: pending.stream,
            payload: buffer.split_to(here).freeze(),
            fin: last && pending.fin,
        };
        if last {
            self.data = None;
        }
        Some(frame)
    }
}

fn control(kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
    let length = body.len();
    let wrong = FrameError::Length { kind, length };
    let fin = flags & FIN != 0;
    let exactly =
        |want: usize| if length == want { Ok(()) } else { Err(FrameError::Length { kind, length }) };
    match kind {
        1 => {
            let stream = stream_id(kind, &mut body)?;
            // The associated stream, priority and slot mean nothing to the protocols above.
            body.try_get_u32().and_then(|_| body.try_get_u16()).map_err(|_| wrong)?;
            Ok(Frame::SynStream { stream, fin, block: body })
        }
        2 => Ok(Frame::SynReply { stream: stream_id(kind, &mut body)?, fin, block: body }),
        3 => {
            exactly(8)?;
            Ok(Frame::Reset { stream: stream_id(kind, &mut body)?, status: body.get_u32() })
        }
        4 => settings(kind, body),
        6 => exactly(4).map(|()| Frame::Ping(body.get_u32())),
        7 => {
            exactly(8)?;
            Ok(Frame::GoAway { last: body.get_u32() & 0x7fff_ffff, status: body.get_u32() })
        }
        8 => Ok(Frame::Headers { stream: stream_id(kind, &mut body)?, fin, block: body }),
        9 => {
            exactly(8)?;
            let stream = body.get_u32() & 0x7fff_ffff;
            Ok(Frame::WindowUpdate { stream, delta: body.get_u32() & 0x7fff_ffff })
        }
        other => Ok(Frame::Unknown(other)),
    }
}

fn stream_id(kind: u16, body: &mut Bytes) -> Result<u32, FrameError> {
    let length = body.len();
    let id = body.try_get_u32().map_err(|_| FrameError::Length { kind, length })? & 0x7fff_ffff;
    if id == 0 { Err(FrameError::StreamZero(kind)) } else { Ok(id) }
}

fn settings(kind: u16, mut body: Bytes) -> Result<Frame, FrameError> {
    let length = body.len();
    let wrong = || FrameError::Length { kind, length };
    let count = body.try_get_u32().map_err(|_| wrong())?;
    let entries = usize::try_from(count).map_err(|_| FrameError::Settings(count))?;
    if entries > limits::SETTINGS {
        return Err(FrameError::Settings(count));
    }
    if body.len() != entries * 8 {
        return Err(wrong());
    }
    let mut initial_window = None;
    for _ in 0..entries {
        let id = body.get_u32() & 0x00ff_ffff;
        let value = body.get_u32();
        if id == INITIAL_WINDOW {
            initial_window = Some(value);
        }
    }
    Ok(Frame::Settings { initial_window })
}

/// Appends `frame` as it goes over the wire.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::SynStream { stream, fin, block } => {
            control_head(out, 1, *fin, 10 + block.len());
            out.put_u32(*stream);
            out.put_bytes(0, 6);
            out.put_slice(block);
        }
        Frame::SynReply { stream, fin, block } => {
            control_head(out, 2, *fin, 4 + block.len());
            out.put_u32(*stream);
            out.put_slice(block);
        }
        Frame::Headers { stream, fin, block } => {
            control_head(out, 8, *fin, 4 + block.len());
            out.put_u32(*stream);
            out.put_slice(block);
        }
        Frame::Reset { stream, status } => pair(out, 3, *stream, *status),
        Frame::Settings { initial_window } => {
            control_head(out, 4, false, 4 + 8 * usize::from(initial_window.is_some()));
            out.put_u32(u32::from(initial_window.is_some()));
            if let Some(window) = initial_window {
                out.put_u32(INITIAL_WINDOW);
                out.put_u32(*window);
            }
        }
        Frame::Ping(id) => {
            control_head(out, 6, false, 4);
            out.put_u32(*id);
        }
        Frame::GoAway { last, status } => pair(out, 7, *last, *status),
        Frame::WindowUpdate { stream, delta } => pair(out, 9, *stream, *delta),
        Frame::Data { stream, payload, fin } => {
            out.put_slice(&data_head(*stream, payload.len(), *fin));
            out.put_slice(payload);
        }
        Frame::Unknown(kind) => control_head(out, *kind, false, 0),
    }
}

/// What goes before the payload of a DATA frame.
pub(crate) fn data_head(stream: u32, length: usize, fin: bool) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    let (id, size) = head.split_at_mut(4);
    id.copy_from_slice(&stream.to_be_bytes());
    size.copy_from_slice(&flags_and_length(fin, length));
    head
}

fn control_head(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_slice(&flags_and_length(fin, length));
}

/// Callers keep to 24 bits: data goes out in pieces of `DATA_BYTES`, headers within `HEADER_BYTES`.
fn flags_and_length(fin: bool, length: usize) -> [u8; 4] {
    let length = u32::try_from(length).unwrap_or(0x00ff_ffff).min(0x00ff_ffff);
    (u32::from(fin) << 24 | length).to_be_bytes()
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control_head(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        Decoder::default().next(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_stream_begins_as_the_protocol_lays_it_out() {
        let bytes = [0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0x20, 0, b'h', b'i'];
        let block = Bytes::from_static(b"hi");
        assert_eq!(decode(&bytes), Ok(Some(Frame::SynStream { stream: 5, fin: true, block })));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "after {cut} bytes");
        }
    }

    #[test]
    fn malformed_frames_are_refused_by_what_is_wrong() {
        let cases: [(&[u8], FrameError); 10] = [
            (&[0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2)),
            (&[0x80, 3, 0, 1, 0, 0, 0, 3, 0, 0, 1], FrameError::Length { kind: 1, length: 3 }),
            (&[0x80, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0], FrameError::Length { kind: 1, length: 6 }),
            (&[0x80, 3, 0, 2, 0, 0, 0, 4, 0x80, 0, 0, 0], FrameError::StreamZero(2)),
            (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Length { kind: 3, length: 4 }),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Length { kind: 4, length: 4 }),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 65], FrameError::Settings(65)),
            (&[0x80, 3, 0, 6, 0, 0, 0, 0], FrameError::Length { kind: 6, length: 0 }),
            (&[0x80, 3, 0, 8, 0, 1, 0, 1], FrameError::TooLarge { kind: 8, length: 65537 }),
            (&[0, 0, 0, 0, 0, 0, 0, 1], FrameError::DataForZero),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(bytes), Err(error), "{bytes:x?}");
        }
    }

    #[test]
    fn the_largest_data_frame_is_handed_on_as_it_comes() {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::from(&[0, 0, 0, 1, 1, 0xff, 0xff, 0xff][..]);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        let mut left = 0x00ff_ffff;
        while left > 0 {
            let here = left.min(10_000);
            buffer.put_bytes(7, here);
            left -= here;
            let Ok(Some(Frame::Data { stream: 1, payload, fin })) = decoder.next(&mut buffer) else {
                panic!("no data")
            };
            assert_eq!((payload.len(), fin), (here, left == 0));
        }
        assert!(decoder.data.is_none() && buffer.is_empty());
    }

    #[test]
    fn an_unknown_control_frame_is_passed_over() {
        let bytes = [0x80, 3, 0, 11, 0, 0, 0, 1, 9, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&bytes[..]));
        assert_eq!(decoder.next(&mut buffer), Ok(Some(Frame::Unknown(11))));
        assert_eq!(decoder.next(&mut buffer), Ok(Some(Frame::Ping(1))));
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1..0x8000_0000u32;
        let bytes = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), any::<bool>(), bytes.clone()).prop_map(|(stream, fin, block)| Frame::SynStream {
                stream,
                fin,
                block
            }),
            (id.clone(), any::<bool>(), bytes.clone()).prop_map(|(stream, fin, block)| Frame::SynReply {
                stream,
                fin,
                block
            }),
            (id.clone(), any::<bool>(), bytes.clone()).prop_map(|(stream, fin, block)| Frame::Headers {
                stream,
                fin,
                block
            }),
            (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            any::<Option<u32>>().prop_map(|initial_window| Frame::Settings { initial_window }),
            any::<u32>().prop_map(Frame::Ping),
            (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id.clone(), id.clone()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (id, any::<bool>(), bytes).prop_map(|(stream, fin, payload)| Frame::Data {
                stream,
                payload,
                fin
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_read_back_as_they_were_written(frames in proptest::collection::vec(frames(), 0..20)) {
            let mut buffer = BytesMut::new();
            frames.iter().for_each(|frame| encode(frame, &mut buffer));
            let mut decoder = Decoder::default();
            for frame in frames {
                prop_assert_eq!(decoder.next(&mut buffer), Ok(Some(frame)));
            }
            prop_assert_eq!(decoder.next(&mut buffer), Ok(None));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_or_hold_on(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&bytes[..]));
            let mut frames = 0;
            while let Ok(Some(_)) = decoder.next(&mut buffer) {
                frames += 1;
                prop_assert!(frames <= bytes.len());
            }
        }
    }
}
