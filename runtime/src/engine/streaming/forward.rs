//! Connects to ports inside pods.
//!
//! In: a sandbox and a port. Out: a TCP connection to its loopback address, IPv4 first, then IPv6. A socket belongs to the
//! network namespace in which it was made: it is made on a thread of its own inside the pod's and connected from here.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use pintle_streaming::Forward;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    super::{
        Engine, blocking,
        error::{Error, Result},
        state::Sandbox,
    },
    check_ready,
    terminal::check_pid,
};

/// How long a listener that takes no connections is waited for, per address.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn connect(engine: &Engine, id: &str, port: u16) -> Result<Forward> {
    let sandbox = engine.sandbox(id)?;
    check_ready(&sandbox)?;
    let [v4, v6] = sockets(&sandbox).await?;
    let first = reach(v4, (Ipv4Addr::LOCALHOST.into(), port)).await;
    let connected = match first {
        Ok(stream) => stream,
        Err(first) => match reach(v6, (Ipv6Addr::LOCALHOST.into(), port)).await {
            Ok(stream) => stream,
            Err(second) => {
                let text = format!("nobody is reached at port {port} in the pod: {first}; {second}");
                return Err(Error::Unavailable(text));
            }
        },
    };
    let (from_pod, to_pod) = connected.into_split();
    Ok(Forward { from_pod: Box::new(from_pod), to_pod: Box::new(to_pod) })
}

/// A socket of each kind inside the pod. Where a kind is switched off, there is none.
async fn sockets(sandbox: &Sandbox) -> Result<[io::Result<TcpSocket>; 2]> {
    let no_supervisor = || Error::FailedPrecondition(format!("sandbox {} has no supervisor", sandbox.id));
    let connection = sandbox.connection().ok_or_else(no_supervisor)?;
    let pid = sandbox.look(|record| record.infra_pid);
    let pid =
        pid.ok_or_else(|| Error::FailedPrecondition(format!("sandbox {} has no process", sandbox.id)))?;
    let path = format!("/proc/{pid}/ns/net");
    let open = path.clone();
    let netns = blocking(move || File::open(&open).map_err(Error::io("opening", open))).await?;
    check_pid(&connection, &sandbox.id, pid).await?;
    blocking(move || {
        let make = || [TcpSocket::new_v4(), TcpSocket::new_v6()];
        pintle_cni::run_in(netns.as_fd(), make).map_err(|e| Error::io("entering", path)(io::Error::other(e)))
    })
    .await
}

async fn reach(
    socket: io::Result<TcpSocket>,
    address: (IpAddr, u16),
) -> std::result::Result<TcpStream, String> {
    let address = SocketAddr::from(address);
    let connecting = async { socket?.connect(address).await };
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| format!("{address}: {error}"))?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection into a pod waits before it sends little");
    }
    Ok(stream)
}
