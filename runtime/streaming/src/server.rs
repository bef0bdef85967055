//! The HTTP/1.1 server that streaming clients connect to: `/exec/TOKEN`, `/attach/TOKEN`, `/portforward/TOKEN`.
//!
//! In: requests from the CRI, for which it gives URLs; clients that come with them. Out: calls of the `Backend`. Tasks:
//! one that accepts, one per client; all end with the token that `run` is given. No TLS and no names of users: whoever
//! can reach it and has a token is let in, so it listens on a loopback address unless told otherwise.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backend::{AttachRequest, Backend, ExecRequest, PortForwardRequest, Streams};
use crate::limits;
use crate::session::{self, Plan, Wish};
use crate::tokens::{TokenError, Tokens};
use crate::upgrade::negotiate;

/// Times that a test or an operator may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How long a URL is good.
    pub token_life: Duration,
    /// Until a client has sent its request, and opened its streams.
    pub creation: Duration,
    /// A connection that carries nothing for so long is ended.
    pub idle: Duration,
    /// How long an output may be silent that is still open after its process is gone.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            token_life: limits::TOKEN_LIFE,
            creation: limits::CREATION,
            idle: limits::IDLE,
            drain: limits::DRAIN,
        }
    }
}

/// Why a request gets no URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("one of stdin, stdout and stderr must be asked for")]
    NoStream,
    #[error("tty and stderr cannot both be asked for: a terminal has one output")]
    TerminalWithStderr,
    #[error("{0} ports, at most {max} are taken", max = limits::PORTS)]
    TooManyPorts(usize),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// See the module.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    base: String,
    backend: Arc<dyn Backend>,
    tokens: Mutex<Tokens<Wish>>,
    clients: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("base", &self.inner.base).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address` (port 0: any) and makes the server for it, which `run` then runs.
    pub async fn bind(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        config: Config,
    ) -> io::Result<(Server, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let inner = Inner {
            config,
            base: format!("http://{}", listener.local_addr()?),
            backend,
            tokens: Mutex::new(Tokens::new(config.token_life)),
            clients: Arc::new(Semaphore::new(limits::CLIENTS)),
        };
        Ok((Server { inner: Arc::new(inner) }, listener))
    }

    /// The URL that serves `request`, once.
    pub fn exec(&self, request: ExecRequest) -> Result<String, RequestError> {
        check_streams(request.streams)?;
        self.url("exec", Wish::Exec(request))
    }

    /// The URL that serves `request`, once.
    pub fn attach(&self, request: AttachRequest) -> Result<String, RequestError> {
        check_streams(request.streams)?;
        self.url("attach", Wish::Attach(request))
    }

    /// The URL that serves `request`, once.
    pub fn port_forward(&self, request: PortForwardRequest) -> Result<String, RequestError> {
        if request.ports.len() > limits::PORTS {
            return Err(RequestError::TooManyPorts(request.ports.len()));
        }
        self.url("portforward", Wish::PortForward(request))
    }

    fn url(&self, kind: &str, wish: Wish) -> Result<String, RequestError> {
        let mut tokens = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.issue(std::time::Instant::now(), wish)?;
        Ok(format!("{}/{kind}/{token}", self.inner.base))
    }

    /// Serves clients until `shutdown`, which also ends those that are there.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            // Cancel-safe: a connection is accepted and handed on without an await between.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    warn!(%error, "a streaming client could not be accepted");
                    // Descriptors may be short: the loop must not burn the processor meanwhile.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.inner.clients).try_acquire_owned() else {
                warn!(limit = limits::CLIENTS, "a streaming client was turned away");
                continue;
            };
            let client = Arc::new(Client {
                inner: Arc::clone(&self.inner),
                shutdown: shutdown.clone(),
                _permit: permit,
            });
            tokio::spawn(client.serve(socket));
        }
    }
}

/// One connection, before and after its upgrade.
struct Client {
    inner: Arc<Inner>,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    async fn serve(self: Arc<Client>, socket: TcpStream) {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "a streaming client's socket is gone already");
        }
        let (client, shutdown) = (Arc::clone(&self), self.shutdown.clone());
        let service = service_fn(move |request| {
            let answer = client.answer(request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.inner.config.creation)
            .max_buf_size(limits::CONTROL_FRAME_BYTES)
            // Who has said all there is to say is answered all the same.
            .half_close(true)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        drop(self);
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                debug!(%error, "a streaming client was no good");
            },
            () = shutdown.cancelled() => {}
        }
    }

    fn answer(self: &Arc<Client>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let Some((spoken, kind, token)) = session::route(&path) else {
            return refuse(StatusCode::NOT_FOUND, "there is nothing here");
        };
        if request.method() != Method::GET && request.method() != Method::POST {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST only");
        }
        // First this: a client that falls back to another protocol may come again with its token.
        let agreed = match negotiate(request.headers(), spoken) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                let mut answer = refuse(refusal.status(), &refusal.to_string());
                for (name, value) in refusal.headers() {
                    answer.headers_mut().append(name, value);
                }
                return answer;
            }
        };
        let wish = {
            let mut tokens = self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.redeem(std::time::Instant::now(), token, |wish| wish.kind() == kind)
        };
        let Some(wish) = wish else {
            return refuse(StatusCode::NOT_FOUND, "no such token: it was used, has expired, or never was");
        };
        let plan = Plan { wish, transport: agreed.transport, protocol: agreed.protocol };
        let (client, upgrade) = (Arc::clone(self), hyper::upgrade::on(&mut request));
        tokio::spawn(async move {
            let serve = async {
                match upgrade.await {
                    Ok(io) => {
                        let (backend, config) = (Arc::clone(&client.inner.backend), client.inner.config);
                        session::serve(TokioIo::new(io), plan, backend, config).await;
                    }
                    Err(error) => debug!(%error, "a streaming client left before its upgrade"),
                }
            };
            tokio::select! {
                () = serve => {}
                () = client.shutdown.cancelled() => {}
            }
        });
        agreed.answer.map(|()| Full::default())
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{why}\n")));
    *answer.status_mut() = status;
    answer
}

fn check_streams(streams: Streams) -> Result<(), RequestError> {
    if streams.tty && streams.stderr {
        return Err(RequestError::TerminalWithStderr);
    }
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(RequestError::NoStream);
    }
    Ok(())
}
