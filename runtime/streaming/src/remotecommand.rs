//! Exec and attach: a process's streams and a client's, brought together.
//!
//! SPDY clients open one stream for each thing, told apart by the header `streamType`; WebSocket clients number them.
//! Protocols: `channel.k8s.io` (v1) and v2 have no resize, v3 has, v4 ends with a Status instead of text, v5 (WebSocket
//! only) lets the client end stdin. In: a connection and the engine's session. Out: bytes, and how it ended.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::backend::{BackendError, Session, Streams};
use crate::channel::{Coding, Sink, Source};
use crate::pump::{Drain, pump_in, pump_out, pump_sizes};
use crate::spdy::{Connection, Stream};
use crate::status;
use crate::websocket::Channels;

/// SPDY's protocols, the best first.
pub(crate) const SPDY_PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// WebSocket's, the best first.
pub(crate) const WEBSOCKET_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// The client's ends.
#[derive(Debug)]
pub(crate) struct Wires {
    stdin: Option<Source>,
    resize: Option<Source>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    error: Sink,
    has_status: bool,
}

/// Whether the last word is a Status (v4 and later).
fn has_status(protocol: &str) -> bool {
    protocol.starts_with("v4.") || protocol.starts_with("v5.")
}

/// Waits until a SPDY client has opened the streams that the request names; `None` if it does not by the deadline.
pub(crate) async fn await_streams(
    connection: &Connection,
    wanted: Streams,
    protocol: &str,
    deadline: Instant,
) -> Option<Wires> {
    let has_resize = wanted.tty && (has_status(protocol) || protocol.starts_with("v3."));
    let names = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr && !wanted.tty),
        ("resize", has_resize),
    ];
    let mut missing: Vec<&str> = names.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
    let mut have: Vec<(&str, Stream)> = Vec::new();
    while !missing.is_empty() {
        let incoming = timeout_at(deadline, connection.accept()).await.ok()??;
        let kind = incoming.headers().get("streamType").unwrap_or_default().to_owned();
        // One that was not asked for, or comes twice, is refused by being dropped.
        if let Some(at) = missing.iter().position(|name| *name == kind) {
            let (stream, _) = incoming.accept().ok()?;
            have.push((missing.swap_remove(at), stream));
        } else {
            debug!(kind, "a stream that was not asked for");
        }
    }
    let mut take = |name: &str| {
        let at = have.iter().position(|(have, _)| *have == name)?;
        Some(have.swap_remove(at).1.split())
    };
    Some(Wires {
        stdin: take("stdin").map(|(receiver, _)| Source::Spdy(receiver)),
        resize: take("resize").map(|(receiver, _)| Source::Spdy(receiver)),
        stdout: take("stdout").map(|(_, sender)| Sink::Spdy(sender)),
        stderr: take("stderr").map(|(_, sender)| Sink::Spdy(sender)),
        error: take("error").map(|(_, sender)| Sink::Spdy(sender))?,
        has_status: has_status(protocol),
    })
}

/// The channels of a WebSocket client: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize.
pub(crate) fn websocket_wires(wanted: Streams, protocol: &str) -> (Wires, Channels) {
    let coding = if protocol.contains("base64") { Coding::Base64 } else { Coding::Binary };
    let (messages, outgoing) = mpsc::channel(2);
    let mut channels = Channels::new(coding, outgoing, protocol.starts_with("v5."));
    let sink = |channel| Sink::WebSocket { channel, coding, messages: messages.clone() };
    let wires = Wires {
        stdin: wanted.stdin.then(|| Source::WebSocket(channels.route(0))),
        resize: wanted.tty.then(|| Source::WebSocket(channels.route(4))),
        stdout: wanted.stdout.then(|| sink(1)),
        stderr: (wanted.stderr && !wanted.tty).then(|| sink(2)),
        error: sink(3),
        has_status: has_status(protocol),
    };
    (wires, channels)
}

impl Wires {
    /// Tells a WebSocket client, by an empty message on the first channel it reads, that it is connected.
    pub(crate) async fn greet(&mut self) -> io::Result<()> {
        let first = self.stdout.as_mut().or(self.stderr.as_mut());
        first.unwrap_or(&mut self.error).say(b"").await
    }
}

/// Serves the client until the process is gone and all it wrote is sent. An error means that the client went first.
pub(crate) async fn serve(
    session: Result<Session, BackendError>,
    wires: Wires,
    quiet: Duration,
) -> io::Result<()> {
    let Wires { stdin, resize, mut stdout, mut stderr, mut error, has_status } = wires;
    let outcome = match session {
        Ok(session) => converse(session, (stdin, resize), (&mut stdout, &mut stderr), quiet).await?,
        Err(error) => Err(error),
    };
    [stdout, stderr].iter_mut().flatten().for_each(Sink::finish);
    if has_status {
        error.say(status::status(&outcome).to_string().as_bytes()).await?;
    } else if outcome != Ok(0) {
        error.say(status::text(&outcome).as_bytes()).await?;
    }
    error.finish();
    Ok(())
}

async fn converse(
    session: Session,
    (stdin, resize): (Option<Source>, Option<Source>),
    (stdout, stderr): (&mut Option<Sink>, &mut Option<Sink>),
    quiet: Duration,
) -> io::Result<Result<i32, BackendError>> {
    let drain = Drain { ended: CancellationToken::new(), quiet };
    let input = async {
        if let (Some(from), Some(to)) = (stdin, session.stdin) { pump_in(from, to).await } else { Ok(()) }
    };
    let sizes = async {
        match (resize, session.terminal) {
            (Some(from), Some(terminal)) => pump_sizes(from, terminal).await,
            (Some(mut from), None) => {
                while from.receive().await?.is_some() {}
                Ok(())
            }
            (None, _) => Ok(()),
        }
    };
    let from_client = async {
        match tokio::try_join!(input, sizes) {
            // The client said all it had to; that ends nothing.
            Ok(_) => pending().await,
            Err(error) => error,
        }
    };
    let output = async |from, to: &mut Option<Sink>| match (from, to) {
        (Some(from), Some(to)) => pump_out(from, to, &drain).await,
        _ => Ok(()),
    };
    let exit = async {
        let outcome = session.exit.await;
        drain.ended.cancel();
        Ok(outcome)
    };
    let to_client =
        async { tokio::try_join!(exit, output(session.stdout, stdout), output(session.stderr, stderr)) };
    // Whichever ends first ends the other one: both own parts of the session, which goes with them.
    tokio::select! {
        ended = to_client => ended.map(|(outcome, (), ())| outcome),
        error = from_client => Err(error),
    }
}
