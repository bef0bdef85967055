//! A laboratory for the kernel tests: a network namespace that stands for the host, others that are pods or the outside.
//!
//! In: a test as a closure. Out: it runs on a thread of its own inside a fresh namespace with a fresh state directory,
//! and afterwards nothing may be left. It never touches the machine's own namespace.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "lints do not know helpers of tests")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use pintle_cni::{Attach, Attachment, Error, HostPort, Netns, Network, NetworkConfig};

/// The host of one test.
pub(crate) struct Lab {
    state: tempfile::TempDir,
}

/// Runs a test inside a namespace of its own and asserts that it leaves nothing there.
pub(crate) fn in_lab(test: impl FnOnce(&Lab) + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        let lab = Lab { state: tempfile::tempdir().unwrap() };
        test(&lab);
        let left = pintle_cni::inspect(&lab.config()).unwrap();
        let nothing = left.leases.is_empty() && left.void_leases.is_empty() && left.links.is_empty();
        assert!(nothing && !left.bridge && !left.opened, "left: {left:?}");
        assert_eq!(left.table, pintle_cni::Table::Absent, "the table is left");
        assert_eq!(links(), ["lo"], "interfaces are left");
        assert_eq!(run("nft", &["list", "ruleset"]), "", "nftables rules are left");
        let left: Vec<_> = fs::read_dir(lab.state.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "state is left: {left:?}");
    };
    let result = thread::Builder::new().name("lab-host".into()).spawn(body).unwrap().join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Lab {
    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig {
            state_dir: self.state.path().to_owned(),
            bridge: "ptl-test".into(),
            nft_table: "pintle-test".into(),
            pod_cidr: Some("10.88.7.0/24".parse().unwrap()),
            mtu: None,
        }
    }

    pub(crate) fn with_range(&self, range: &str) -> NetworkConfig {
        NetworkConfig { pod_cidr: Some(range.parse().unwrap()), ..self.config() }
    }

    pub(crate) fn open(&self) -> Network {
        Network::open(self.config()).unwrap()
    }

    /// The addresses that have a lease file.
    pub(crate) fn leases(&self) -> Vec<String> {
        let mut names: Vec<String> = match fs::read_dir(self.state.path().join("leases")) {
            Ok(entries) => entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        names
    }

    pub(crate) fn lease_path(&self, ip: &str) -> PathBuf {
        self.state.path().join("leases").join(ip)
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }
}

/// A network namespace that a parked thread keeps and can be named by.
pub(crate) struct Pod {
    pub(crate) id: String,
    netns: File,
    tid: i32,
    release: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Pod {
    pub(crate) fn new(id: &str) -> Self {
        let (opened, wait) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let keep = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let file = File::open("/proc/thread-self/ns/net").unwrap();
            opened.send((file, rustix::thread::gettid().as_raw_nonzero().get())).unwrap();
            assert!(released.recv().is_err(), "only ever closed");
        };
        let thread = thread::Builder::new().name("lab-pod".into()).spawn(keep).unwrap();
        let (netns, tid) = wait.recv().unwrap();
        Self { id: id.to_owned(), netns, tid, release: Some(release), thread: Some(thread) }
    }

    pub(crate) fn attach(&self, network: &Network) -> Result<Attachment, Error> {
        self.attach_with(network, &[])
    }

    /// With ports of the node that lead to it.
    pub(crate) fn attach_with(&self, network: &Network, ports: &[HostPort]) -> Result<Attachment, Error> {
        let netns = Netns::Fd(self.netns.as_fd());
        let pod_uid = "11111111-2222-3333-4444-555555555555";
        network.attach(&Attach { sandbox: &self.id, pod_uid, netns, ports })
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid).into()
    }

    /// What `ip link set ... netns` wants to hear.
    pub(crate) fn tid(&self) -> String {
        self.tid.to_string()
    }

    /// Runs something inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A server that tells every caller the address it sees.
pub(crate) fn serve_whoami() -> SocketAddr {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().take(1) {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
            stream.write_all(peer.as_bytes()).unwrap();
        }
    });
    address
}

/// Asks such a server.
pub(crate) fn whoami(ip: IpAddr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), patience()).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// How long something may take that takes no time.
pub(crate) fn patience() -> Duration {
    let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    Duration::from_secs(10).mul_f64(scale)
}

/// Runs a program in the calling thread's namespace and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// The interfaces of the calling thread's namespace, without the tunnels some kernels make in every namespace.
pub(crate) fn links() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names =
        text.lines().skip(2).filter_map(|line| line.split(':').next()).map(|name| name.trim().to_owned());
    let mut names: Vec<String> =
        names.filter(|n| !n.ends_with('0') || n.starts_with("pv") || n == "eth0").collect();
    names.sort();
    names
}

/// The host ends of pods in the calling thread's namespace.
pub(crate) fn pod_links() -> Vec<String> {
    links().into_iter().filter(|name| name.starts_with("pv")).collect()
}

/// Detaches everything and takes the network down.
pub(crate) fn tear_down(network: Network) {
    network.remove_all().unwrap();
    drop(network);
}
