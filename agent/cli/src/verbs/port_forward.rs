//! `port-forward`: makes ports of a pod reachable on this machine.
//!
//! In: a pod and `[LOCAL:]REMOTE` ports. Out: listeners on loopback, whose connections lead into the pod, until the user
//! ends it or the pod is gone. A local port of 0, or none before the colon, is any that is free.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use bytes::BytesMut;
use pintle_cri_api::v1::PortForwardRequest;
use pintle_streaming::{
    client::{ClientError, PortForward},
    spdy::{Receiver, Stream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

/// Read at once from a connection.
const READ_BYTES: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct PortForwardArgs {
    /// Id, beginning of the id, or name
    pod: String,
    /// Ports as [LOCAL:]REMOTE
    #[arg(value_name = "PORTS", required = true, value_parser = parse)]
    ports: Vec<Ports>,
}

/// A port here and the one in the pod that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

fn parse(text: &str) -> Result<Ports, String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
    let local = if local.is_empty() { 0 } else { number(local)? };
    match number(remote)? {
        0 => Err("port 0 is none in a pod".to_owned()),
        remote => Ok(Ports { local, remote }),
    }
}

pub(crate) async fn run(
    args: PortForwardArgs,
    session: &Session,
    io: &mut Io<'_>,
) -> Result<ExitCode, CliError> {
    let pods = resolve::pods(session).await?;
    let pod_sandbox_id = resolve::pod(&args.pod, &pods)?.id.clone();
    let what = format!("forward ports of pod {pod_sandbox_id}");
    let (accepted, mut connections) = mpsc::channel(16);
    for ports in &args.ports {
        listen(*ports, &accepted, io).await?;
    }
    io.flush()?;
    let port = args.ports.iter().map(|ports| i32::from(ports.remote)).collect();
    let mut client = session.runtime().await?;
    let call = Call::quick(what.clone()).on(Noun::Pod);
    let url = session.call(call, client.port_forward(PortForwardRequest { pod_sandbox_id, port })).await?.url;
    let failed = |source| CliError::Stream { what: what.clone(), source };
    let mut forward = PortForward::connect(&url).await.map_err(failed)?;
    loop {
        // Cancel-safe: a connection is taken or not.
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            () = forward.lost() => return Err(failed(ClientError::Lost)),
        };
        let Some((socket, remote)) = connection else { return Ok(ExitCode::SUCCESS) };
        let (data, errors) = forward.open(remote).await.map_err(failed)?;
        tokio::spawn(relay(socket, data));
        tokio::spawn(tell(errors));
    }
}

/// Listens on both loopback addresses, where there are both.
async fn listen(
    ports: Ports,
    accepted: &mpsc::Sender<(TcpStream, u16)>,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let refused = |error: io::Error| CliError::Argument {
        flag: "PORTS",
        reason: format!("cannot listen on port {}: {error}", ports.local),
    };
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.local)).await.map_err(refused)?;
    let local = first.local_addr()?.port();
    let second = TcpListener::bind((Ipv6Addr::LOCALHOST, local)).await.ok();
    for listener in std::iter::once(first).chain(second) {
        let address: SocketAddr = listener.local_addr()?;
        writeln!(io.out, "Forwarding from {address} -> {}", ports.remote)?;
        let accepted = accepted.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if accepted.send((socket, ports.remote)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Moves bytes both ways; each end may be done before the other.
async fn relay(socket: TcpStream, data: Stream) {
    let ((mut from, mut to), (mut receiver, mut sender)) = (socket.into_split(), data.split());
    let outwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            if from.read_buf(&mut buffer).await? == 0 {
                break;
            }
            sender.send(buffer.split().freeze()).await?;
        }
        sender.finish();
        Ok::<_, io::Error>(())
    };
    let inwards = async {
        while let Some(piece) = receiver.receive().await? {
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    if let Err(error) = tokio::try_join!(outwards, inwards) {
        eprintln!("a connection broke: {error}");
    }
}

/// Prints why a connection was not made.
async fn tell(mut errors: Receiver) {
    let mut text = Vec::new();
    while let Ok(Some(piece)) = errors.receive().await {
        text.extend_from_slice(&piece);
    }
    if !text.is_empty() {
        eprintln!("{}", String::from_utf8_lossy(&text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_crictl_reads_them() {
        let ports = |local, remote| Ok(Ports { local, remote });
        assert_eq!(parse("80"), ports(80, 80));
        assert_eq!(parse("8080:80"), ports(8080, 80));
        assert_eq!(parse(":80"), ports(0, 80));
        assert_eq!(parse("0:80"), ports(0, 80));
        for bad in ["", "0", "80:", "x", "65536", "1:2:3", "-1"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
