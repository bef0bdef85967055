//! How much a streaming client may ask for. Each figure says why; none depends on what a client sends.

use std::time::Duration;

/// Payload of one DATA frame or WebSocket message that we send: what a pipe holds.
pub const DATA_BYTES: usize = 64 * 1024;
/// Read at once from a connection.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// What one stream may hold that was received and not yet taken. Then the connection is not read any further: the
/// clients of Kubernetes know no windows, so that TCP has to hold them up.
pub const STREAM_BYTES: usize = 256 * 1024;
/// The same for all streams of a connection together.
pub const CONNECTION_BYTES: usize = 4 * 1024 * 1024;
/// Pieces of a stream that wait to be sent. They are counted and not their bytes, since a piece of one byte may keep a
/// buffer of `DATA_BYTES`.
pub(crate) const QUEUED_PIECES: usize = 2;
/// Pieces smaller than this are copied together, so that few bytes cannot keep a read buffer each.
pub(crate) const SMALL_PIECE: usize = 16 * 1024;
/// Control frames (SPDY allows 16 MiB). Headers of Kubernetes are less than 200 bytes.
pub const CONTROL_FRAME_BYTES: usize = 64 * 1024;
/// Names and values of one header block, uncompressed; deflate alone would let 64 KiB become 64 MiB.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Headers of one block.
pub const HEADERS: usize = 64;
/// Entries of a SETTINGS frame.
pub const SETTINGS: usize = 64;
/// Control frames that wait to be sent; then nothing more is read that could ask for another.
pub(crate) const CONTROL_QUEUE_BYTES: usize = 64 * 1024;
/// Open streams of a connection: a thousand forwarded TCP connections.
pub const STREAMS: usize = 2048;
/// The largest WebSocket message taken, as in Go's server: Python's client sends each write as one message.
pub const WEBSOCKET_BYTES: usize = 32 * 1024 * 1024;
/// Ports of one port-forward request over WebSocket channels, which are numbered by a byte, two a port.
pub const PORTS: usize = 127;
/// Bytes of one resize message.
pub const RESIZE_BYTES: usize = 1024;
/// Tokens given out and not yet used, as the kubelet.
pub const TOKENS: usize = 1000;
/// Clients at once.
pub const CLIENTS: usize = 1000;
/// How long a token is good.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Until a client has to have sent its request, and made its streams.
pub const CREATION: Duration = Duration::from_secs(30);
/// A connection that carries nothing for so long is ended (the kubelet's streamingConnectionIdleTimeout).
pub const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// A process has exited and something it left behind still holds its output open: how long nothing may come from there.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How long a client may take to hang up after all was said.
pub const LINGER: Duration = Duration::from_secs(5);
/// A connection that is not read, since a stream is full, is asked this often whether somebody is still there.
pub(crate) const PROBE: Duration = Duration::from_secs(15);
/// The longest error text for a client.
pub(crate) const MESSAGE_BYTES: usize = 4096;
