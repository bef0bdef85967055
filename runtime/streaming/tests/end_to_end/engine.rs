//! An engine that runs no containers: its commands are functions, its pods' ports are listeners on this host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pintle_streaming::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the engine has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bytes that `flood` wrote.
    pub flooded: AtomicU64,
    /// Sessions that were given up or have ended.
    pub ended: AtomicU64,
}

#[derive(Debug, Default)]
pub struct Fake {
    pub seen: Arc<Seen>,
}

/// A server that lives as long as this.
pub struct Running {
    pub server: Server,
    pub seen: Arc<Seen>,
    _guard: DropGuard,
}

pub async fn start(config: Config) -> Running {
    let seen = Arc::new(Seen::default());
    let backend = Arc::new(Fake { seen: Arc::clone(&seen) });
    let (server, listener) = Server::bind("127.0.0.1:0".parse().unwrap(), backend, config).await.unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(server.clone().run(listener, shutdown.clone()));
    Running { server, seen, _guard: shutdown.drop_guard() }
}

/// Output only.
pub const OUT: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
/// All but a terminal.
pub const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
/// A terminal.
pub const TTY: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

impl Running {
    pub fn url(&self, streams: Streams, command: &[&str]) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.server.exec(ExecRequest { container: "c".to_owned(), command, streams }).unwrap()
    }

    pub fn forward_url(&self, ports: &[u16]) -> String {
        let request = PortForwardRequest { sandbox: "s".to_owned(), ports: ports.to_vec() };
        self.server.port_forward(request).unwrap()
    }
}

struct Counted(Arc<Seen>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

struct Sizes(mpsc::Sender<TerminalSize>);

#[async_trait]
impl Terminal for Sizes {
    async fn resize(&mut self, size: TerminalSize) -> std::io::Result<()> {
        self.0.send(size).await.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

#[async_trait]
impl Backend for Fake {
    async fn exec(&self, request: &ExecRequest) -> Result<Session, BackendError> {
        let words: Vec<String> = request.command.clone();
        if words.is_empty() {
            return Err(BackendError("no command".to_owned()));
        }
        let (stdin, process_in) = duplex(64 * 1024);
        let (process_out, stdout) = duplex(64 * 1024);
        let (process_err, stderr) = duplex(64 * 1024);
        let (sizes, size) = mpsc::channel(8);
        let seen = Arc::clone(&self.seen);
        let exit = tokio::spawn(run(words, (process_in, process_out, process_err), size, Arc::clone(&seen)));
        let counted = Counted(seen);
        let wanted = request.streams;
        Ok(Session {
            stdin: wanted.stdin.then(|| Box::new(stdin) as Input),
            stdout: wanted.stdout.then(|| Box::new(stdout) as Output),
            stderr: wanted.stderr.then(|| Box::new(stderr) as Output),
            terminal: wanted.tty.then(|| Box::new(Sizes(sizes)) as Box<dyn Terminal>),
            exit: Box::pin(async move {
                let _counted = counted;
                exit.await.map_err(|error| BackendError(error.to_string()))
            }),
        })
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Session, BackendError> {
        let command = vec!["cat".to_owned()];
        self.exec(&ExecRequest { container: request.container.clone(), command, streams: request.streams })
            .await
    }

    async fn connect(&self, _sandbox: &str, port: u16) -> Result<Forward, BackendError> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await;
        let socket = socket.map_err(|error| BackendError(format!("connecting failed: {error}")))?;
        let (from, to) = socket.into_split();
        Ok(Forward { from_pod: Box::new(from), to_pod: Box::new(to) })
    }
}

/// The programs there are.
async fn run(
    words: Vec<String>,
    (mut input, mut output, mut errors): (DuplexStream, DuplexStream, DuplexStream),
    mut sizes: mpsc::Receiver<TerminalSize>,
    seen: Arc<Seen>,
) -> i32 {
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    match words[0].as_str() {
        "exit" => {
            output.write_all(b"out").await.unwrap();
            errors.write_all(b"err").await.unwrap();
            i32::try_from(number(1)).unwrap()
        }
        "cat" => {
            tokio::io::copy(&mut input, &mut output).await.unwrap();
            0
        }
        "count" => {
            let bytes = tokio::io::copy(&mut input, &mut tokio::io::sink()).await.unwrap();
            output.write_all(bytes.to_string().as_bytes()).await.unwrap();
            0
        }
        "flood" => {
            let block = vec![7; 64 * 1024];
            let mut left = number(1);
            while left > 0 {
                let here = left.min(64 * 1024);
                if output.write_all(&block[..usize::try_from(here).unwrap()]).await.is_err() {
                    return 1;
                }
                seen.flooded.fetch_add(here, Ordering::SeqCst);
                left -= here;
            }
            0
        }
        "size" => {
            let size = sizes.recv().await.unwrap();
            output.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
            0
        }
        "leave-open" => {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                drop(output);
            });
            0
        }
        "deaf" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            drop(input);
            0
        }
        other => {
            errors.write_all(format!("{other}: not found").as_bytes()).await.unwrap();
            127
        }
    }
}

/// All that comes until the end.
pub async fn read_all(mut from: spdy::Receiver) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = from.receive().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

/// A pod's server on a port of this host, which sends back what it gets, and closes after the client did.
pub async fn echo_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
                drop(to.shutdown().await);
                drop(from.read(&mut [0]).await);
            });
        }
    });
    port
}
