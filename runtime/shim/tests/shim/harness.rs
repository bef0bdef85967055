//! A supervisor with a client, and bundles for it.

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pintle_shim_protocol::*;
use rustix::net::*;
use serde_json::{Value, json};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Set: every container is made by the external runtime.
pub(crate) const HANDLER: &str = "PINTLE_TEST_EXTERNAL";

/// The external runtime under test, `PINTLE_TEST_OCI_RUNTIME` or runc.
pub(crate) fn oci_runtime() -> OciRuntime {
    let name = std::env::var("PINTLE_TEST_OCI_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let places = ["", "/usr/sbin/", "/usr/bin/", "/sbin/", "/usr/local/sbin/", "/usr/local/bin/"];
    let found = places
        .iter()
        .map(|place| format!("{place}{name}"))
        .find(|path| path.starts_with('/') && Path::new(path).is_file());
    let path = found.unwrap_or_else(|| panic!("the OCI runtime {name} is not installed"));
    OciRuntime { path, args: Vec::new(), create_args: Vec::new(), exec_cgroup: true }
}

/// A duration, as much longer as this machine is slower.
pub(crate) fn scaled(duration: Duration) -> Duration {
    let scale = std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse::<f64>().ok());
    duration.mul_f64(scale.unwrap_or(1.0))
}

pub(crate) fn patience() -> Duration {
    scaled(Duration::from_secs(20))
}

pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every cgroup hierarchy's mount point, with its v1 controllers (none: v2).
pub(crate) fn hierarchies() -> Vec<(PathBuf, Option<String>)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mount = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        match right.next()? {
            "cgroup2" => Some((mount, None)),
            "cgroup" => Some((mount, Some(right.nth(1)?.to_owned()))),
            _ => None,
        }
    };
    mounts.lines().filter_map(parse).collect()
}

pub(crate) fn is_v2() -> bool {
    hierarchies().iter().all(|(_, controllers)| controllers.is_none())
}

/// The directory of a cgroup in the hierarchy that holds a controller.
pub(crate) fn cgroup_directory(controller: &str, path: &str) -> PathBuf {
    let found = hierarchies().into_iter().find(|(_, controllers)| {
        controllers.as_ref().map_or(is_v2(), |list| list.split(',').any(|name| name == controller))
    });
    found.unwrap().0.join(&path[1..])
}

pub(crate) struct Client {
    socket: OwnedFd,
    next: u64,
    pub(crate) events: Vec<Event>,
    replies: Vec<(u64, Outcome)>,
    /// What came along with replies.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Client {
    pub(crate) fn connect(dir: &Path) -> Self {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(dir.join("shim.sock")).unwrap()).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience())).unwrap();
        Self { socket, next: 1, events: Vec::new(), replies: Vec::new(), descriptors: Vec::new() }
    }

    pub(crate) fn greeted(dir: &Path) -> Self {
        let mut client = Self::connect(dir);
        client.ask(Request::Hello { oldest: OLDEST_VERSION, newest: VERSION }).unwrap();
        client
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn send(&mut self, request: Request, descriptors: &[BorrowedFd<'_>]) -> u64 {
        let seq = self.next;
        self.next += 1;
        let bytes = serde_json::to_vec(&Envelope { seq, request }).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        seq
    }

    fn receive(&mut self) {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut buffer)];
        let length =
            recvmsg(&self.socket, into, &mut control, RecvFlags::empty()).expect("a message in time").bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.extend(rights);
            }
        }
        assert!(length > 0, "the supervisor closed the connection");
        match serde_json::from_slice(&buffer[..length]).unwrap() {
            Message::Reply { seq, outcome } => self.replies.push((seq, outcome)),
            Message::Event { event } => self.events.push(event),
        }
    }

    pub(crate) fn answer(&mut self, seq: u64) -> Result<Answer, Failure> {
        loop {
            if let Some(at) = self.replies.iter().position(|(number, _)| *number == seq) {
                return match self.replies.remove(at).1 {
                    Outcome::Answer(answer) => Ok(answer),
                    Outcome::Error(failure) => Err(failure),
                };
            }
            self.receive();
        }
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer, Failure> {
        let seq = self.send(request, &[]);
        self.answer(seq)
    }

    pub(crate) fn event(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        loop {
            if let Some(event) = self.events.iter().find(|event| wanted(event)) {
                return event.clone();
            }
            self.receive();
        }
    }

    pub(crate) fn exit_of(&mut self, id: &str) -> ExitRecord {
        let event = self.event(|event| matches!(event, Event::Exited { container, .. } if container == id));
        match event {
            Event::Exited { exit, .. } => exit,
            Event::Oom { .. } => unreachable!(),
        }
    }
}

pub(crate) struct Shim {
    pub(crate) dir: tempfile::TempDir,
    /// The parent of all cgroups of this test.
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) pid: i32,
    /// The test has ended the supervisor by itself.
    pub(crate) has_ended: bool,
}

impl Shim {
    /// With the supervisor's own time-out for helpers, on a usual machine.
    pub(crate) fn start() -> Self {
        Self::start_impatient(Duration::from_secs(10))
    }

    pub(crate) fn start_impatient(helper_timeout: Duration) -> Self {
        Self::start_with(&["--helper-timeout-ms", &scaled(helper_timeout).as_millis().to_string()])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pintle-shim-test-").tempdir().unwrap();
        let base = format!("/pintle-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Another build of the supervisor (static, release) can be put to the same tests.
        let program = std::env::var("PINTLE_SHIM_UNDER_TEST");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_pintle-shim").to_owned());
        let mut launched = Command::new(program)
            .args(["--sandbox", "sandbox0", "--cgroup", &format!("{base}/shim"), "--dir"])
            .arg(dir.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(launched.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert!(launched.wait().unwrap().success());
        let mut client = Client::connect(dir.path());
        let pid = match client.ask(Request::Hello { oldest: 1, newest: 9 }).unwrap() {
            Answer::Hello { version: VERSION, pid, sandbox } if sandbox == "sandbox0" => pid,
            other => panic!("{other:?}"),
        };
        client.ask(Request::Subscribe).unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        Self { dir, base, client, pid, has_ended: false }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn cgroup(&self, id: &str) -> String {
        format!("{}/pod/{id}", self.base)
    }

    /// A configuration that runs the shell script.
    pub(crate) fn config(&self, id: &str, script: &str) -> Value {
        self.config_for(id, &["/bin/sh", "-c", script])
    }

    pub(crate) fn config_for(&self, id: &str, arguments: &[&str]) -> Value {
        let capabilities =
            json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD"]);
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": arguments, "env": ["PATH=/bin", "A=b"], "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": self.path("rootfs"), "readonly": false},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            ],
            "linux": {
                "cgroupsPath": self.cgroup(id),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        })
    }

    /// Writes the bundle; the log is `<id>.log`.
    pub(crate) fn bundle(&self, id: &str, config: &Value) -> CreateContainer {
        let bundle = self.path(&format!("containers/{id}"));
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        CreateContainer {
            container: id.to_owned(),
            bundle: bundle.to_str().unwrap().to_owned(),
            infra: false,
            seccomp: false,
            log_path: Some(self.path(&format!("{id}.log")).to_str().unwrap().to_owned()),
            stdin: false,
            kill_all_on_exit: false,
            oom_score_adj: None,
            runtime: std::env::var_os(HANDLER).map(|_| oci_runtime()),
        }
    }

    pub(crate) fn create(&mut self, create: CreateContainer) -> Result<i32, Failure> {
        match self.client.ask(Request::Create(create))? {
            Answer::Created { pid } => Ok(pid),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn start_container(&mut self, id: &str) -> Result<i64, Failure> {
        match self.client.ask(Request::Start { container: id.to_owned() })? {
            Answer::Started { started_at } => Ok(started_at),
            other => panic!("{other:?}"),
        }
    }

    /// Creates and starts; returns the pid.
    pub(crate) fn run(&mut self, id: &str, script: &str) -> i32 {
        let config = self.config(id, script);
        self.run_config(id, &config)
    }

    pub(crate) fn run_config(&mut self, id: &str, config: &Value) -> i32 {
        let create = self.bundle(id, config);
        let pid = self.create(create).unwrap();
        self.start_container(id).unwrap();
        pid
    }

    /// Runs a script to its end; returns its exit code and its log lines without times.
    pub(crate) fn output_of(&mut self, id: &str, config: &Value) -> (i32, Vec<String>) {
        self.run_config(id, config);
        let code = self.client.exit_of(id).code;
        (code, self.log_lines(id))
    }

    pub(crate) fn log_lines(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("{id}.log"))).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    pub(crate) fn wait_for_line(&self, id: &str, wanted: &str) {
        until(wanted, || self.log_lines(id).iter().any(|line| line.ends_with(wanted)).then_some(()));
    }

    pub(crate) fn kill(&mut self, id: &str, signal: i32, scope: KillScope) {
        let request = Request::Kill { container: id.to_owned(), signal, scope };
        assert_eq!(self.client.ask(request).unwrap(), Answer::Done);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        assert_eq!(self.client.ask(Request::Remove { container: id.to_owned() }).unwrap(), Answer::Done);
        self.assert_no_cgroup(id);
    }

    pub(crate) fn assert_no_cgroup(&self, id: &str) {
        for (mount, _) in hierarchies() {
            let directory = mount.join(&self.cgroup(id)[1..]);
            assert!(!directory.exists(), "{} is left", directory.display());
        }
    }

    pub(crate) fn process(&self, id: &str, arguments: &[&str]) -> Value {
        self.config_for(id, arguments)["process"].clone()
    }

    /// Starts an exec with its output in `<exec>.out`; the answer is still to come.
    pub(crate) fn begin_exec(
        &mut self,
        id: &str,
        exec: &str,
        process: &Value,
        timeout_ms: Option<u64>,
    ) -> u64 {
        let file = self.path(&format!("{exec}.json"));
        fs::write(&file, serde_json::to_vec(process).unwrap()).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let out = fs::File::create(self.path(&format!("{exec}.out"))).unwrap();
        let request = Request::Exec {
            container: id.to_owned(),
            exec: exec.to_owned(),
            process: file.to_str().unwrap().to_owned(),
            timeout_ms,
        };
        self.client.send(request, &[null.as_fd(), out.as_fd(), out.as_fd()])
    }

    /// Runs an exec to its end; returns its exit code and output.
    pub(crate) fn exec(&mut self, id: &str, exec: &str, script: &str) -> (i32, String) {
        let process = self.process(id, &["/bin/sh", "-c", script]);
        let seq = self.begin_exec(id, exec, &process, None);
        match self.client.answer(seq).unwrap() {
            Answer::ExecDone { exit_code, timed_out: false } => (exit_code, self.exec_output(exec)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn exec_output(&self, exec: &str) -> String {
        fs::read_to_string(self.path(&format!("{exec}.out"))).unwrap()
    }

    pub(crate) fn shim_log(&self) -> String {
        fs::read_to_string(self.path("shim.log")).unwrap()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("shim.log:\n{}", self.shim_log());
        }
        let done = if self.has_ended {
            Ok(Answer::Done)
        } else {
            let seq = self.client.send(Request::Shutdown, &[]);
            self.client.answer(seq)
        };
        let alive = || {
            fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| !stat.contains(") Z "))
        };
        until("the supervisor ends", || (!alive()).then_some(()));
        let mut left = Vec::new();
        for (mount, _) in hierarchies() {
            let base = mount.join(&self.base[1..]);
            // The supervisor's own group is the engine's to remove; the pod's has to be empty.
            for name in ["shim", "pod"] {
                until("the cgroup is free", || match fs::remove_dir(base.join(name)) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        let pods = fs::read_dir(base.join(name)).unwrap();
                        left.extend(
                            pods.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()),
                        );
                        (!left.is_empty()).then_some(())
                    }
                    _ => Some(()),
                });
            }
            if base.exists() && fs::remove_dir(&base).is_err() {
                left.push(base);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.dir.path().to_str().unwrap();
        if !std::thread::panicking() {
            assert_eq!(done, Ok(Answer::Done));
            assert!(left.is_empty(), "left: {left:?}");
            assert!(!mounts.contains(ours), "a mount is left");
        }
    }
}

fn make_rootfs(root: &Path) {
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = "sh cat ls sleep echo id printf dd true false kill readlink stat mknod grep mount umount setsid hostname pwd seq head sed tr chmod stty";
    for applet in applets.split(' ') {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
}
