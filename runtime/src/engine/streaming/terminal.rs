//! Terminals: a pair of ends in a container's own `/dev/pts`, and the end that stays here.
//!
//! In: a container's first process. Out: the slave's descriptors for a command, which finds its terminal by name inside;
//! the [`Master`] for a client. When the last copy of a master is dropped, the kernel hangs up.

use std::{
    fs,
    io::{self, BufRead as _},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use pintle_streaming::{Input, Output, Streams, Terminal, TerminalSize};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
    termios::Winsize,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use super::{
    super::{
        error::{Error, Result},
        supervisor_client::Connection,
    },
    exec::Ends,
};
use crate::{resolve::open_below, sys};

/// What makes terminals, by its name inside a container.
const MULTIPLEXER: &str = "/dev/pts/ptmx";
/// statfs's magic number of a devpts.
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// Makes sure that a pid is still that of a container's first process, which the supervisor has not reaped: then what was
/// opened by it was the container's, and not that of another process by the same number.
pub(super) async fn check_pid(connection: &Connection, id: &str, pid: i32) -> Result<()> {
    let known = connection.list().await.map_err(Error::supervisor("asking what runs"))?;
    match known.iter().any(|state| state.container == id && state.pid == Some(pid)) {
        true => Ok(()),
        false => Err(Error::FailedPrecondition(format!("container {id} does not run any more"))),
    }
}

/// Both ends of a new terminal.
pub(super) fn open(pid: i32, streams: Streams) -> Result<Ends> {
    let failed = |step: &'static str| move |e: io::Error| Error::io(step, MULTIPLEXER)(e);
    let master = open_master(pid)?;
    sys::terminal::unlock(master.as_fd()).map_err(failed("unlocking a terminal of the container's"))?;
    let slave =
        sys::terminal::peer(master.as_fd()).map_err(failed("opening a terminal of the container's"))?;
    let copy = || slave.try_clone().map_err(failed("copying a terminal of the container's"));
    let theirs = [copy()?, copy()?, slave];
    let master = Master::new(master)?;
    let (stdout, unwanted) = if streams.stdout {
        (Some(Box::new(master.clone()) as Output), Vec::new())
    } else {
        (None, vec![Box::new(master.clone()) as Output])
    };
    Ok(Ends {
        theirs,
        stdin: streams.stdin.then(|| Box::new(master.clone()) as Input),
        stdout,
        stderr: None,
        unwanted,
        terminal: Some(Box::new(master)),
    })
}

/// Opens the multiplexer in a container, once it is seen to be one: a container could have anything at its place.
fn open_master(pid: i32) -> Result<OwnedFd> {
    let root = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root, flags, Mode::empty()).map_err(Error::io("opening", root))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = match open_below(&root, MULTIPLEXER, OFlags::PATH, resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(no_terminals()),
        other => other.map_err(Error::io("looking inside the container at", MULTIPLEXER))?,
    };
    let stat = rustix::fs::fstat(&found).map_err(Error::io("looking at", MULTIPLEXER))?;
    let system = rustix::fs::fstatfs(&found).map_err(Error::io("looking at", MULTIPLEXER))?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(5, 2) || system.f_type != DEVPTS {
        return Err(no_terminals());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(Error::io("opening inside the container", MULTIPLEXER))
}

fn no_terminals() -> Error {
    Error::FailedPrecondition(format!("the container has no terminals: nothing makes them at {MULTIPLEXER}"))
}

/// Makes a command's user the owner of its descriptors, so that it may open them by name (`/dev/stdout`, its terminal).
pub(super) fn give(descriptors: &[OwnedFd], pid: i32, uid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/uid_map");
    let map = fs::read(&path).map_err(Error::io("reading", &path))?;
    let Some(owner) = outside(&map, uid) else { return Ok(()) };
    for descriptor in descriptors {
        rustix::fs::fchown(descriptor, Some(Uid::from_raw(owner)), None)
            .map_err(Error::io("changing the owner of", "a standard descriptor"))?;
    }
    Ok(())
}

/// A user of a user namespace, as the node numbers it.
fn outside(map: &[u8], uid: u32) -> Option<u32> {
    map.lines().map_while(io::Result::ok).find_map(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

/// The end of a terminal that a client reads, writes and sizes.
#[derive(Debug, Clone)]
pub(super) struct Master(Arc<AsyncFd<OwnedFd>>);

impl Master {
    /// `descriptor` is a terminal's master.
    pub(super) fn new(descriptor: OwnedFd) -> Result<Self> {
        let failed = |e: io::Error| Error::io("watching", "a terminal")(e);
        rustix::io::ioctl_fionbio(&descriptor, true).map_err(|e| failed(e.into()))?;
        Ok(Self(Arc::new(sys::terminal::watch(descriptor).map_err(failed)?)))
    }
}

impl AsyncRead for Master {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd, &mut *unfilled)?)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other end open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Master {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no end of input but the character that its program takes for one; the client's end is not that.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Terminal for Master {
    async fn resize(&mut self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&*self.0, size)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_outside_of_its_namespace() {
        let map = b"         0     100000      65536\n     70000          5         10\n";
        assert_eq!(outside(map, 0), Some(100_000));
        assert_eq!(outside(map, 65_535), Some(165_535));
        assert_eq!(outside(map, 70_009), Some(14));
        assert_eq!(outside(map, 65_536), None);
        assert_eq!(outside(b"0 0 4294967295\n", 1000), Some(1000));
    }
}
