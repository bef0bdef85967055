//! As much of an API server as `kubectl exec`, `attach`, `cp` and `port-forward` need, in front of a node.
//!
//! In: a node's socket and network namespace; kubectl's requests. Out: what there is to discover, the node's pods, and for
//! the streaming requests the URL of the same call of the CRI, to which kubectl's connection is passed through with every byte
//! as it is: protocols are agreed on, and spoken, between kubectl and the node. One thread per connection, until it ends.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use pintle_cri_api::v1;
use serde_json::{Value, json};

use crate::ask;

/// The listening one.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    upgrades: Upgrades,
}

/// The protocols that streaming requests asked for, in lower case.
type Upgrades = Arc<Mutex<BTreeSet<String>>>;

/// A request up to its body, which none of these has.
struct Head {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    /// With their line ends, and the empty line after them.
    headers: String,
}

impl ApiServer {
    /// Serves on loopback inside a network namespace for as long as the process lives.
    pub fn start(netns: &str, endpoint: &str) -> Self {
        let (netns, endpoint) = (File::open(netns).expect("the node's namespace"), endpoint.to_owned());
        let (sender, receiver) = std::sync::mpsc::channel();
        let upgrades = Upgrades::default();
        let seen = Arc::clone(&upgrades);
        // Threads inherit the namespace, and sockets belong to that of the thread that makes them.
        std::thread::spawn(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(kind)).expect("it can be entered");
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
            sender.send(listener.local_addr().expect("an address")).expect("somebody waits");
            for socket in listener.incoming().flatten() {
                let (endpoint, seen) = (endpoint.clone(), Arc::clone(&seen));
                std::thread::spawn(move || {
                    if let Err(error) = serve(socket, &endpoint, &seen) {
                        eprintln!("api server: {error}");
                    }
                });
            }
        });
        Self { address: receiver.recv().expect("the server starts"), upgrades }
    }

    /// What the streaming requests so far asked to be upgraded to: `spdy/3.1`, `websocket`.
    pub fn upgrades(&self) -> Vec<String> {
        self.upgrades.lock().expect("nobody panics with it").iter().cloned().collect()
    }

    /// Its URL inside the namespace.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(socket: TcpStream, endpoint: &str, upgrades: &Upgrades) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    while let Some(head) = read_head(&mut reader)? {
        let parts: Vec<&str> = head.path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["api", "v1", "namespaces", _, "pods", pod, call @ ("exec" | "attach" | "portforward")] => {
                upgrades.lock().expect("nobody panics with it").extend(head.header("upgrade"));
                let url = streaming_url(endpoint, pod, call, &head).map_err(io::Error::other)?;
                return pass_through(&head, &url, reader, socket);
            }
            parts => answer(&socket, find(endpoint, parts))?,
        }
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
        if reader.read_line(&mut headers)? == 0 {
            return Ok(None);
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    Ok(Some(Head { method, path: path.to_owned(), query, headers }))
}

/// A value of a query, without its percent signs and plusses.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).expect("two digits follow a percent sign")
            }
            other => other,
        });
    }
    String::from_utf8(bytes).expect("kubectl sends text")
}

impl Head {
    fn all(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn header(&self, name: &str) -> Option<String> {
        let pairs = self.headers.lines().filter_map(|line| line.split_once(':'));
        pairs
            .map(|(known, value)| (known, value.trim().to_lowercase()))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }

    fn is_set(&self, name: &str) -> bool {
        self.all(name).iter().any(|value| value == "true" || value == "1")
    }
}

/// What kubectl looks up before it streams.
fn find(endpoint: &str, parts: &[&str]) -> Option<Value> {
    match parts {
        ["version"] => Some(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        ["api", "v1"] => {
            let pods = json!({"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["get", "list"], "shortNames": ["po"]});
            Some(json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]}))
        }
        ["api", "v1", "namespaces", _, "pods", pod] => {
            let mut found = pod_named(endpoint, pod)?;
            found["kind"] = "Pod".into();
            found["apiVersion"] = "v1".into();
            Some(found)
        }
        _ => None,
    }
}

fn pod_named(endpoint: &str, name: &str) -> Option<Value> {
    let pods = ask::pods(endpoint).ok()?;
    pods.into_iter().find(|pod| pod["metadata"]["name"] == name)
}

fn answer(mut socket: &TcpStream, found: Option<Value>) -> io::Result<()> {
    let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
    let body = found.unwrap_or_else(|| {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
    });
    let body = body.to_string();
    let length = body.len();
    write!(
        socket,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn streaming_url(endpoint: &str, pod: &str, call: &str, head: &Head) -> Result<String, String> {
    let (stdin, tty) = (head.is_set("stdin"), head.is_set("tty"));
    let (stdout, stderr) = (head.is_set("stdout"), head.is_set("stderr"));
    if call == "portforward" {
        let ports = head.all("ports").iter().filter_map(|port| port.parse().ok()).collect();
        return ask::port_forward(endpoint, pod, ports);
    }
    let pod = pod_named(endpoint, pod).ok_or_else(|| format!("there is no pod {pod}"))?;
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let wanted = head.all("container").pop();
    let is_it = |status: &&Value| wanted.as_deref().is_none_or(|name| status["name"] == name);
    let status = statuses.iter().find(is_it).ok_or("there is no such container")?;
    let id = status["containerID"].as_str().and_then(|id| id.split_once("://")).ok_or("it has no id")?.1;
    let (container_id, audit_request_id) = (id.to_owned(), String::new());
    if call == "attach" {
        let request = v1::AttachRequest { container_id, stdin, tty, stdout, stderr, audit_request_id };
        return ask::attach(endpoint, request);
    }
    let cmd = head.all("command");
    ask::exec(endpoint, v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr, audit_request_id })
}

/// Sends the request to the streaming server under its own path there, then only moves bytes.
fn pass_through(
    head: &Head,
    url: &str,
    mut from_client: BufReader<TcpStream>,
    mut to_client: TcpStream,
) -> io::Result<()> {
    let rest = url.strip_prefix("http://").ok_or_else(|| io::Error::other("the URL is not of HTTP"))?;
    let (address, path) = rest.split_once('/').ok_or_else(|| io::Error::other("the URL has no path"))?;
    let mut server = TcpStream::connect(address)?;
    write!(server, "{} /{path} HTTP/1.1\r\n{}", head.method, head.headers)?;
    let mut from_server = server.try_clone()?;
    let outwards = std::thread::spawn(move || {
        // Either end may hang up at any time.
        relay(&mut from_client, &mut server).unwrap_or_default();
        server.shutdown(Shutdown::Write).unwrap_or_default();
    });
    relay(&mut from_server, &mut to_client).unwrap_or_default();
    to_client.shutdown(Shutdown::Both).unwrap_or_default();
    outwards.join().expect("it only moves bytes");
    Ok(())
}

fn relay(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}
