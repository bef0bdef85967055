//! A small HTTP server that does what a test tells it to, for registries that misbehave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::Layout;

/// One request, as far as it matters here.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `GET` or `POST`.
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: String,
    /// The byte it wants to begin at.
    pub(crate) from: usize,
}

pub(crate) type Handler = dyn Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// An HTTP server of one thread per connection, one request each.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopping) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, log, mut stream) = (Arc::clone(&handler), Arc::clone(&log), stream.unwrap());
                std::thread::spawn(move || {
                    if let Some(request) = read_request(&stream) {
                        log.lock().unwrap().push(request.clone());
                        // The client may have gone; that is its right.
                        drop(handler(&request, &mut stream));
                    }
                });
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    /// Serves an image's blobs and manifest, except what `special` answers itself.
    pub(crate) fn of_image(
        layout: &Layout,
        manifest: &serde_json::Value,
        special: impl Fn(&Request, &mut TcpStream) -> Option<std::io::Result<()>> + Send + Sync + 'static,
    ) -> Self {
        let blobs = layout.dir.path().join("blobs/sha256");
        let top = manifest["digest"].as_str().unwrap().to_owned();
        Self::start(Arc::new(move |request, stream| {
            if let Some(result) = special(request, stream) {
                return result;
            }
            let path = request.path.split('?').next().unwrap();
            match path.rsplit_once('/').unwrap() {
                ("/v2", "") => answer(stream, "200 OK", b"{}"),
                (_, tag) => {
                    let wanted = tag.strip_prefix("sha256:").unwrap_or(&top[7..]);
                    match std::fs::read(blobs.join(wanted)) {
                        Ok(bytes) => answer(stream, "200 OK", &bytes),
                        Err(_) => answer(stream, "404 Not Found", b"{}"),
                    }
                }
            }
        }))
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.take(16 << 10)).lines();
    let first = lines.next()?.ok()?;
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let mut request = Request { method: method.to_owned(), path, authorization: String::new(), from: 0 };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(request);
        }
        let Some((key, value)) = line.split_once(": ") else { continue };
        match key.to_ascii_lowercase().as_str() {
            "authorization" => value.clone_into(&mut request.authorization),
            "range" => request.from = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?,
            _ => {}
        }
    }
    None
}

pub(crate) fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    head(stream, status, body.len() as u64)?;
    stream.write_all(body)
}

pub(crate) fn head(stream: &mut TcpStream, status: &str, length: u64) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
}
