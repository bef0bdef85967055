//! Port-forward: connections into a pod, many in one client connection.
//!
//! SPDY: a pair of streams for each, `error` and `data`, that belong together by the header `requestID` and name the
//! port; also inside a WebSocket. Old WebSocket clients: two channels for each port of the request (data, error), on
//! which the port is said first, and one connection per port.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::backend::{Backend, BackendError, Forward};
use crate::channel::{Coding, Sink, Source};
use crate::pump::{Drain, pump_in, pump_out};
use crate::spdy::{Connection, Headers, Stream};
use crate::status;
use crate::websocket::Channels;

pub(crate) const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// SPDY inside a WebSocket, then channels.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
pub(crate) const WEBSOCKET_PROTOCOLS: &[&str] =
    &[TUNNEL_PROTOCOL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// The half of a pair that came first.
struct Half {
    stream: Stream,
    is_error: bool,
    port: u16,
    deadline: Instant,
}

/// Serves a SPDY client until it leaves and all its connections have ended.
pub(crate) async fn serve_spdy(
    connection: &Connection,
    backend: Arc<dyn Backend>,
    sandbox: &str,
    creation: Duration,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let next = halves.values().map(|half| half.deadline).min();
        // A stream is taken whole or not at all; a connection that ended is only counted out.
        let incoming = tokio::select! {
            incoming = connection.accept() => incoming,
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    debug!(%error, "a forwarded connection's task failed");
                }
                continue;
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                halves.retain(|_, half| half.deadline > now);
                continue;
            }
        };
        let Some(incoming) = incoming else { break };
        let Some((request, is_error, port)) = read_headers(incoming.headers(), incoming.id()) else {
            debug!(headers = ?incoming.headers(), "a stream that names no port or no type");
            continue;
        };
        if halves.get(&request).is_some_and(|half| half.is_error == is_error || half.port != port) {
            debug!(request, "a stream that does not fit the one before");
            continue;
        }
        let Ok((stream, _)) = incoming.accept() else { break };
        match halves.remove(&request) {
            None => {
                let deadline = Instant::now() + creation;
                halves.insert(request, Half { stream, is_error, port, deadline });
            }
            Some(half) => {
                let (data, error) = if is_error { (half.stream, stream) } else { (stream, half.stream) };
                let ((from, to), (_, error)) = (data.split(), error.split());
                let ends = Ends { from: Source::Spdy(from), to: Sink::Spdy(to), error: Sink::Spdy(error) };
                running.spawn(forward(Arc::clone(&backend), sandbox.to_owned(), port, ends));
            }
        }
    }
    while running.join_next().await.is_some() {}
}

/// Request, whether it is the error stream, and port. Clients before `requestID` opened the error stream first and the
/// data stream right after it, whose number is then two more.
fn read_headers(headers: &Headers, id: u32) -> Option<(String, bool, u16)> {
    let is_error = match headers.get("streamType")? {
        "error" => true,
        "data" => false,
        _other => return None,
    };
    let port = headers.get("port")?.parse::<u16>().ok().filter(|port| *port > 0)?;
    let request = match headers.get("requestID") {
        Some(request) if !request.is_empty() => request.to_owned(),
        _none if is_error => format!("#{id}"),
        _none => format!("#{}", id.checked_sub(2)?),
    };
    Some((request, is_error, port))
}

/// The client's ends of one forwarded connection.
#[derive(Debug)]
struct Ends {
    from: Source,
    to: Sink,
    error: Sink,
}

async fn forward(backend: Arc<dyn Backend>, sandbox: String, port: u16, ends: Ends) {
    let Ends { from, mut to, mut error } = ends;
    let outcome = match backend.connect(&sandbox, port).await {
        Ok(forward) => relay(forward, from, &mut to).await,
        Err(failure) => tell(&mut error, port, &failure).await,
    };
    // An error stream that says nothing: what breaks in the middle is no reason for a client to leave, and kubectl leaves
    // at the first word on it.
    error.finish();
    match outcome {
        Ok(()) => to.finish(),
        Err(error) => debug!(%error, port, "a forwarded connection's client is gone"),
    }
}

async fn relay(forward: Forward, from: Source, to: &mut Sink) -> io::Result<()> {
    let never = Drain::never();
    // A WebSocket client cannot end one direction, so that for it the pod's end is the end of both.
    let can_half_close = matches!(from, Source::Spdy(_));
    let to_pod = pump_in(from, forward.to_pod);
    let to_client = pump_out(forward.from_pod, to, &never);
    if can_half_close {
        return tokio::try_join!(to_pod, to_client).map(|((), ())| ());
    }
    let to_pod = async {
        to_pod.await?;
        std::future::pending().await
    };
    // Whichever ends first ends the connection; no byte is lost by dropping the other one, which the client left.
    tokio::select! {
        ended = to_pod => ended,
        ended = to_client => ended,
    }
}

async fn tell(error: &mut Sink, port: u16, failure: &BackendError) -> io::Result<()> {
    error.say(format!("error forwarding port {port}: {}", status::clip(&failure.0)).as_bytes()).await
}

/// The channels of an old WebSocket client, and what is to be run beside them.
pub(crate) fn websocket_forwards(
    backend: &Arc<dyn Backend>,
    sandbox: &str,
    ports: &[u16],
    protocol: &str,
) -> (JoinSet<()>, Channels) {
    let coding = if protocol.contains("base64") { Coding::Base64 } else { Coding::Binary };
    let (messages, outgoing) = mpsc::channel(2);
    let mut channels = Channels::new(coding, outgoing, false);
    let mut running = JoinSet::new();
    for (number, port) in (0u8..).step_by(2).zip(ports) {
        let sink = |channel| Sink::WebSocket { channel, coding, messages: messages.clone() };
        let ends = Ends {
            from: Source::WebSocket(channels.route(number)),
            to: sink(number),
            error: sink(number + 1),
        };
        running.spawn(forward_channel(Arc::clone(backend), sandbox.to_owned(), *port, ends));
    }
    (running, channels)
}

async fn forward_channel(backend: Arc<dyn Backend>, sandbox: String, port: u16, mut ends: Ends) {
    for sink in [&mut ends.to, &mut ends.error] {
        if let Err(error) = sink.say(&port.to_le_bytes()).await {
            debug!(%error, port, "a client is gone before the first byte");
            return;
        }
    }
    forward(backend, sandbox, port, ends).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str, port: &str) -> Headers {
        Headers::default().with("streamType", kind).with("port", port)
    }

    #[test]
    fn streams_belong_together_by_request_or_by_their_numbers() {
        let named = headers("data", "80").with("requestID", "7");
        assert_eq!(read_headers(&named, 5), Some(("7".to_owned(), false, 80)));
        assert_eq!(read_headers(&headers("error", "80"), 1), Some(("#1".to_owned(), true, 80)));
        assert_eq!(read_headers(&headers("data", "80"), 3), Some(("#1".to_owned(), false, 80)));
    }

    #[test]
    fn streams_without_a_sound_port_or_type_are_none() {
        for port in ["0", "65536", "-1", "http", ""] {
            assert_eq!(read_headers(&headers("data", port), 3), None, "port {port}");
        }
        assert_eq!(read_headers(&headers("stdin", "80"), 3), None);
        assert_eq!(read_headers(&headers("data", "80"), 1), None);
    }
}
