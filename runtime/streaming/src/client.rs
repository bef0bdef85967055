//! The client's end, for our command line and for tests: exec, attach and port-forward over SPDY/3.1.
//!
//! In: a URL from the CRI. Out: streams. Speaks v4 of remotecommand only, and plain HTTP only.

use std::io;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

use crate::backend::{Streams, TerminalSize};
use crate::spdy::{Connection, Headers, ProtocolError, Receiver, Role, Sender, Stream};
use crate::upgrade::{SPDY, STREAM_PROTOCOL};
use crate::websocket::Tunnel;

/// Why a client gets no stream, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("streaming URL {url}: {why}")]
    Url { url: String, why: String },
    #[error("streaming URL {url}: connecting failed")]
    Connect { url: String, source: io::Error },
    #[error("streaming URL {url}: the upgrade to SPDY/3.1 failed")]
    Http { url: String, source: hyper::Error },
    #[error("streaming URL {url}: refused with {status}")]
    Refused { url: String, status: StatusCode },
    #[error("stream {name}: it could not be opened")]
    Open { name: &'static str, source: io::Error },
    #[error("stream {name}: it broke")]
    Broken { name: &'static str, source: io::Error },
    #[error("the connection to the pod is lost")]
    Lost,
    #[error("the command failed: {0}")]
    Command(String),
}

/// Connects to `url` and agrees on one of `protocols`.
pub async fn dial(url: &str, protocols: &[&str]) -> Result<Connection, ClientError> {
    let wrong = |why: &str| ClientError::Url { url: url.to_owned(), why: why.to_owned() };
    let failed = |source| ClientError::Http { url: url.to_owned(), source };
    let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.ok_or_else(|| wrong("it does not begin with http://"))?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let socket = TcpStream::connect(address).await;
    let socket = socket.map_err(|source| ClientError::Connect { url: url.to_owned(), source })?;
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY);
    for protocol in protocols {
        request = request.header(STREAM_PROTOCOL, *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| wrong("it makes no request"))?;
    let answer = requests.send_request(request).await.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ClientError::Refused { url: url.to_owned(), status: answer.status() });
    }
    let io = hyper::upgrade::on(answer).await.map_err(failed)?;
    Connection::start(TokioIo::new(io), Role::Client).map_err(|error| wrong(&error.to_string()))
}

/// A process that runs for this client.
#[derive(Debug)]
pub struct Command {
    /// Finish it to end the process's input.
    pub stdin: Option<Sender>,
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
    pub terminal: Option<Resizer>,
    pub outcome: Outcome,
}

/// Tells the other end the size of the terminal.
#[derive(Debug)]
pub struct Resizer(Sender);

/// How the process ended, once it has. Holds the connection: without it the streams end.
#[derive(Debug)]
pub struct Outcome {
    error: Receiver,
    _connection: Connection,
}

/// Connects to a URL of `Exec` or `Attach` that was asked for with `streams`.
pub async fn command(url: &str, streams: Streams) -> Result<Command, ClientError> {
    let connection = dial(url, &["v4.channel.k8s.io"]).await?;
    let (error, _) = open(&connection, "error").await?;
    let stdin = if streams.stdin { Some(open(&connection, "stdin").await?.1) } else { None };
    let stdout = if streams.stdout { Some(open(&connection, "stdout").await?.0) } else { None };
    let stderr = if streams.stderr { Some(open(&connection, "stderr").await?.0) } else { None };
    let terminal = if streams.tty { Some(Resizer(open(&connection, "resize").await?.1)) } else { None };
    Ok(Command { stdin, stdout, stderr, terminal, outcome: Outcome { error, _connection: connection } })
}

async fn open(connection: &Connection, name: &'static str) -> Result<(Receiver, Sender), ClientError> {
    let headers = Headers::default().with("streamType", name);
    let stream = connection.open(&headers).await;
    stream.map(Stream::split).map_err(|source| ClientError::Open { name, source })
}

impl Resizer {
    /// Says that the terminal has this size now.
    pub async fn resize(&mut self, size: TerminalSize) -> io::Result<()> {
        let text = format!("{{\"Width\":{},\"Height\":{}}}\n", size.width, size.height);
        self.0.send(text.into()).await
    }
}

impl Outcome {
    /// Waits for the exit code. The outputs are to be read meanwhile, by others, and to their end before this is dropped.
    pub async fn wait(&mut self) -> Result<i32, ClientError> {
        let mut text = Vec::new();
        loop {
            match self.error.receive().await {
                Ok(Some(piece)) => text.extend_from_slice(&piece),
                Ok(None) => break,
                // Go's servers reset what they have finished with: what came before that is whole.
                Err(error) if is_reset(&error) && !text.is_empty() => break,
                Err(source) => return Err(ClientError::Broken { name: "error", source }),
            }
            if text.len() > crate::limits::CONTROL_FRAME_BYTES {
                return Err(ClientError::Command("the error stream does not end".to_owned()));
            }
        }
        exit_code(&text)
    }
}

/// Whether the other end has given up a stream, and not the connection with it. An output is at its end then, and only the
/// outcome tells whether it was meant to be.
pub fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

fn exit_code(text: &[u8]) -> Result<i32, ClientError> {
    let status: Value = serde_json::from_slice(text)
        .map_err(|_| ClientError::Command(String::from_utf8_lossy(text).into_owned()))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code = causes.iter().find(|cause| cause["reason"] == "ExitCode");
    let code = code.and_then(|cause| cause["message"].as_str()).and_then(|code| code.parse().ok());
    code.ok_or_else(|| {
        ClientError::Command(status["message"].as_str().unwrap_or("no reason is given").to_owned())
    })
}

/// A connection over which any number of ports can be reached.
#[derive(Debug)]
pub struct PortForward {
    connection: Connection,
    requests: u32,
}

impl PortForward {
    /// Connects to a URL of `PortForward`.
    pub async fn connect(url: &str) -> Result<PortForward, ClientError> {
        Ok(PortForward { connection: dial(url, &["portforward.k8s.io"]).await?, requests: 0 })
    }

    /// The same inside a WebSocket, on which `SPDY/3.1+portforward.k8s.io` was agreed.
    pub fn in_websocket<I>(socket: WebSocketStream<I>) -> Result<PortForward, ProtocolError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Ok(PortForward { connection: Connection::start(Tunnel::new(socket), Role::Client)?, requests: 0 })
    }

    /// Returns when the connection is there no more. Cancel-safe.
    pub async fn lost(&self) {
        self.connection.lost().await;
    }

    /// Connects to `port` in the pod: the data stream, and the one on which a failure is told.
    pub async fn open(&mut self, port: u16) -> Result<(Stream, Receiver), ClientError> {
        let headers = |kind: &str| {
            Headers::default()
                .with("streamType", kind)
                .with("port", port.to_string())
                .with("requestID", self.requests.to_string())
        };
        let opened = |name| move |source| ClientError::Open { name, source };
        let error = self.connection.open(&headers("error")).await.map_err(opened("error"))?;
        let data = self.connection.open(&headers("data")).await.map_err(opened("data"))?;
        self.requests += 1;
        let (error, mut never) = error.split();
        never.finish();
        Ok((data, error))
    }
}
