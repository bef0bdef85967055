//! The engine's end of a supervisor's socket.
//!
//! In: requests of the operations on a sandbox, each with its own time limit. Out: answers, by the request's number;
//! events and the end of the connection to a [`Listener`], called from the connection's own task, in order. One
//! supervisor that hangs delays only those who asked it. It decides nothing: what the end of a connection means is
//! found out in `engine::watch`.
//!
//! ```text
//!  request ── sendmsg(SEQPACKET, +fds) ──► supervisor
//!     │ pending[seq] = oneshot                  │
//!     └────────────◄── reader task ◄── recv ────┘──► Listener::event / Listener::closed
//! ```

use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use pintle_shim_protocol::{
    Answer, ContainerState, Envelope, Event, Failure, MAX_MESSAGE, Message, OLDEST_VERSION, Outcome, Request,
    VERSION,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::{io::Interest, net::UnixDatagram, sync::oneshot, time::timeout};

/// How long a connection's first answer may take.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// The most requests that may be unanswered on one connection.
const MAX_PENDING: usize = 1024;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// There is no supervisor at the socket.
    #[error("connecting to the supervisor at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Whether there is one cannot be found out, for want of descriptors or memory.
    #[error("making a connection to the supervisor")]
    Unable(#[source] io::Error),
    /// The request could not be sent.
    #[error("sending to the supervisor")]
    Send(#[source] io::Error),
    /// The connection ended before the answer came.
    #[error("the supervisor closed the connection")]
    Closed,
    /// The answer did not come in time.
    #[error("the supervisor gave no answer in {0:?}")]
    TimedOut(Duration),
    /// Too many requests wait for answers, or too many connections to be taken.
    #[error("the supervisor has too much to do")]
    Busy,
    /// The supervisor said no.
    #[error("the supervisor refused")]
    Refused(#[source] Failure),
    /// The answer is none to this request.
    #[error("the supervisor gave an answer that does not fit the request: {0}")]
    Unexpected(String),
}

pub use SupervisorError as Error;

impl SupervisorError {
    /// The supervisor's own words, when it refused.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            Self::Connect { .. }
            | Self::Unable(_)
            | Self::Send(_)
            | Self::Closed
            | Self::TimedOut(_)
            | Self::Busy
            | Self::Unexpected(_) => None,
        }
    }
}

/// Who is told what a supervisor reports. Called from the connection's task; must not block.
pub trait Listener: Send + Sync + 'static {
    /// Something happened to a container.
    fn event(&self, event: Event);
    /// The connection is over: nothing more will come from it.
    fn closed(&self);
}

type Waiting = oneshot::Sender<Result<Replied, Error>>;

/// An answer, and the descriptor that came with it.
type Replied = (Answer, Option<OwnedFd>);

/// One connection. Cheap to clone; the connection ends when the supervisor ends it or [`Connection::close`] is called.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    /// The supervisor's pid.
    pub pid: i32,
}

#[derive(Debug)]
struct Shared {
    /// A SEQPACKET socket; tokio's datagram type only waits for it, the calls are our own.
    socket: UnixDatagram,
    next: AtomicU64,
    /// Whether the supervisor has answered: the end of a connection that never worked is told to its opener alone.
    greeted: AtomicBool,
    /// `None` when the connection is over.
    pending: Mutex<Option<HashMap<u64, Waiting>>>,
}

impl Connection {
    /// Connects, agrees on a version and asks for events. Returns what the supervisor knows at that moment.
    ///
    /// # Errors
    /// When nobody listens, or the supervisor does not speak our version, or does not answer.
    pub async fn open<L: Listener>(path: &Path, listener: L) -> Result<(Self, Vec<ContainerState>), Error> {
        let socket = connect(path).map_err(|source| no_connection(path, source))?;
        Self::begin(socket, listener).await
    }

    /// As [`Self::open`], over a connection that the supervisor was started with.
    ///
    /// # Errors
    /// When the supervisor does not come up, or as with [`Self::open`].
    pub async fn over<L: Listener>(
        socket: OwnedFd,
        listener: L,
    ) -> Result<(Self, Vec<ContainerState>), Error> {
        let socket = UnixDatagram::from_std(socket.into()).map_err(Error::Unable)?;
        Self::begin(socket, listener).await
    }

    async fn begin<L: Listener>(
        socket: UnixDatagram,
        listener: L,
    ) -> Result<(Self, Vec<ContainerState>), Error> {
        let pending = Mutex::new(Some(HashMap::new()));
        let shared =
            Arc::new(Shared { socket, next: AtomicU64::new(1), greeted: AtomicBool::new(false), pending });
        tokio::spawn(read_packets(Arc::clone(&shared), listener));
        let mut connection = Self { shared, pid: 0 };
        match connection.greet().await {
            Ok(known) => {
                connection.shared.greeted.store(true, Ordering::Release);
                Ok((connection, known))
            }
            Err(error) => {
                connection.close();
                Err(error)
            }
        }
    }

    async fn greet(&mut self) -> Result<Vec<ContainerState>, Error> {
        let hello = Request::Hello { oldest: OLDEST_VERSION, newest: VERSION };
        // Sent one after the other without waiting in between; the second is refused when the first one is.
        let exchange = async {
            let hello = self.post(hello, &[]).await?;
            let list = self.post(Request::Subscribe, &[]).await?;
            Ok((hello.answer().await?, list.answer().await?))
        };
        let (answer, known) =
            timeout(HELLO_LIMIT, exchange).await.unwrap_or(Err(Error::TimedOut(HELLO_LIMIT)))?;
        let Answer::Hello { pid, .. } = answer else { return Err(unexpected(&answer)) };
        self.pid = pid;
        containers_of(known)
    }

    /// Sends a request and waits for its answer, but not longer than `limit`.
    ///
    /// # Errors
    /// When the supervisor refuses, does not answer in time, or is gone.
    pub async fn request(&self, request: Request, limit: Duration) -> Result<Answer, Error> {
        self.request_with_fds(request, &[], limit).await
    }

    /// As [`Self::request`], with descriptors for the supervisor.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_with_fds(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Answer, Error> {
        self.request_for_descriptor(request, fds, limit).await.map(|(answer, _)| answer)
    }

    /// As [`Self::request_with_fds`], with the descriptor that the supervisor answers with.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_for_descriptor(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Replied, Error> {
        let exchange = async { self.post(request, fds).await?.whole_answer().await };
        timeout(limit, exchange).await.unwrap_or(Err(Error::TimedOut(limit)))
    }

    /// Sends a request; the descriptors have been taken when this returns.
    pub(crate) async fn post(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Posted<'_>, Error> {
        let seq = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let pending = Pending::register(&self.shared, seq, sender)?;
        let envelope = Envelope { seq, request };
        let packet = serde_json::to_vec(&envelope).map_err(|e| Error::Unexpected(e.to_string()))?;
        self.send(&packet, fds).await?;
        Ok(Posted { answer, _pending: pending })
    }

    /// What the supervisor knows now.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn list(&self) -> Result<Vec<ContainerState>, Error> {
        self.list_by(Request::List).await
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.pending).is_none()
    }

    /// Ends the connection; the supervisor lives on.
    pub fn close(&self) {
        // ENOTCONN says that it has ended already.
        rustix::net::shutdown(&self.shared.socket, rustix::net::Shutdown::Both).unwrap_or(());
    }

    async fn list_by(&self, request: Request) -> Result<Vec<ContainerState>, Error> {
        containers_of(self.request(request, HELLO_LIMIT).await?)
    }

    async fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let result = self
            .shared
            .socket
            .async_io(Interest::WRITABLE, || send_packet(self.shared.socket.as_fd(), packet, fds))
            .await;
        result.map_err(|e| {
            let gone = matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
            if gone { Error::Closed } else { Error::Send(e) }
        })
    }
}

/// A request that is on its way.
pub(crate) struct Posted<'a> {
    answer: oneshot::Receiver<Result<Replied, Error>>,
    _pending: Pending<'a>,
}

impl Posted<'_> {
    pub(crate) async fn answer(self) -> Result<Answer, Error> {
        self.whole_answer().await.map(|(answer, _)| answer)
    }

    async fn whole_answer(self) -> Result<Replied, Error> {
        self.answer.await.unwrap_or(Err(Error::Closed))
    }
}

fn containers_of(answer: Answer) -> Result<Vec<ContainerState>, Error> {
    let Answer::List { containers } = answer else { return Err(unexpected(&answer)) };
    Ok(containers)
}

/// The complaint about an answer that fits no request of ours.
#[must_use]
pub fn unexpected(answer: &Answer) -> Error {
    Error::Unexpected(format!("{answer:?}"))
}

/// A place in the table of unanswered requests, given back when the asker stops waiting.
struct Pending<'a> {
    shared: &'a Shared,
    seq: u64,
}

impl<'a> Pending<'a> {
    fn register(shared: &'a Shared, seq: u64, sender: Waiting) -> Result<Self, Error> {
        let mut pending = lock(&shared.pending);
        let table = pending.as_mut().ok_or(Error::Closed)?;
        if table.len() >= MAX_PENDING {
            return Err(Error::Busy);
        }
        table.insert(seq, sender);
        Ok(Self { shared, seq })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(table) = lock(&self.shared.pending).as_mut() {
            table.remove(&self.seq);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection's task: takes packets until the supervisor ends the connection.
async fn read_packets<L: Listener>(shared: Arc<Shared>, listener: L) {
    loop {
        let received = shared.socket.async_io(Interest::READABLE, || receive_packet(&shared.socket)).await;
        match received {
            Ok(packet) if !packet.bytes.is_empty() => take_packet(&shared, &listener, packet),
            Ok(_) | Err(_) => break,
        }
    }
    // Dropping the senders tells everybody who waits that the connection is over.
    drop(lock(&shared.pending).take());
    if shared.greeted.load(Ordering::Acquire) {
        listener.closed();
    }
}

/// What the supervisor sent.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// The next packet, in memory of its own size: there is one connection per pod, and hardly a packet is as long as it may
/// be. Empty at the end of the connection.
fn receive_packet(socket: &UnixDatagram) -> io::Result<Packet> {
    let look = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length) = rustix::net::recv(socket, &mut [0_u8; 1], look)?;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message {
            descriptor = rights.next();
        }
    }
    bytes.truncate(received.bytes);
    Ok(Packet { bytes, descriptor })
}

fn take_packet<L: Listener>(shared: &Shared, listener: &L, packet: Packet) {
    match serde_json::from_slice(&packet.bytes) {
        Ok(Message::Event { event }) => listener.event(event),
        Ok(Message::Reply { seq, outcome }) => {
            let waiting = lock(&shared.pending).as_mut().and_then(|table| table.remove(&seq));
            let result = match outcome {
                Outcome::Answer(answer) => Ok((answer, packet.descriptor)),
                Outcome::Error(failure) => Err(Error::Refused(failure)),
            };
            // An asker that has stopped waiting does not care.
            waiting.map_or(Ok(()), |sender| sender.send(result)).unwrap_or(());
        }
        Err(error) => tracing::warn!(%error, "a supervisor sent a packet that cannot be understood"),
    }
}

/// What it says of the supervisor that there is no connection: only the first means that it is dead.
fn no_connection(path: &Path, source: io::Error) -> Error {
    let kind = source.kind();
    if matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
        Error::Connect { path: path.to_owned(), source }
    } else if kind == io::ErrorKind::WouldBlock {
        // It listens, and others wait before us.
        Error::Busy
    } else {
        Error::Unable(source)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // A path longer than sun_path is reached through its directory's descriptor.
    let directory = rustix::fs::open(
        path.parent().unwrap_or(Path::new("/")),
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let address = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&directory));
    rustix::net::connect(&socket, &SocketAddrUnix::new(address.as_str())?)?;
    UnixDatagram::from_std(socket.into())
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than a packet may carry"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_whole_one_by_one_and_the_end_is_empty() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let ours = UnixDatagram::from_std(ours.into()).unwrap();
        let long = vec![b'x'; MAX_MESSAGE];
        for packet in [&b"short"[..], &long] {
            rustix::net::send(&theirs, packet, SendFlags::empty()).unwrap();
        }
        assert_eq!(receive_packet(&ours).unwrap().bytes, b"short");
        assert_eq!(receive_packet(&ours).unwrap().bytes, long);
        assert_eq!(receive_packet(&ours).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(receive_packet(&ours).unwrap().bytes, b"");
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_means_a_dead_supervisor() {
        use rustix::io::Errno;
        let of = |errno: Errno| no_connection(Path::new("/s"), errno.into());
        assert!(matches!(of(Errno::CONNREFUSED), Error::Connect { .. }));
        assert!(matches!(of(Errno::NOENT), Error::Connect { .. }));
        assert!(matches!(of(Errno::AGAIN), Error::Busy));
        assert!(matches!(of(Errno::MFILE), Error::Unable(_)));
    }
}
