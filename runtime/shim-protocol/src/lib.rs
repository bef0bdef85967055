//! The messages that the engine and a pod's supervisor (`pintle-shim`) exchange, and the records a supervisor leaves on
//! disk.
//!
//! In: nothing; this crate holds types, their JSON encoding and the bounds on them. Out: [`Request`] from the engine,
//! [`Message`] from the supervisor, [`ExitRecord`] on disk. It opens no socket and reads no file.
//!
//! Transport: one `SOCK_SEQPACKET` unix socket per supervisor, one JSON object per packet, at most [`MAX_MESSAGE`]
//! bytes. File descriptors travel with [`Request::Exec`] and [`Request::Attach`] as `SCM_RIGHTS`. Bulk data (the OCI configuration of a
//! container, the process of an exec) travels as files in the state directory, so that every packet stays small and
//! the supervisor never has to grow its heap for one.
//!
//! A connection starts with [`Request::Hello`]; the supervisor answers with the version both speak. Several
//! connections may be open at once. Events go to each connection that said [`Request::Subscribe`]; one that does not
//! read its events is closed and learns the present state from [`Request::List`] when it comes back.

use serde::{Deserialize, Serialize};

/// The newest protocol version this build speaks.
pub const VERSION: u32 = 1;

/// The oldest protocol version this build still speaks.
pub const OLDEST_VERSION: u32 = 1;

/// The most bytes a packet may have.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// In a bundle: a seccomp filter, ready to be loaded. Its flags in four bytes, then a classic BPF program, eight bytes an
/// instruction (`struct sock_filter`), all as this machine has them in memory.
pub const SECCOMP_FILE: &str = "seccomp.bpf";

/// A request of the engine, with the number its [`Message::Reply`] will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the sender; unique among its unanswered requests on this connection.
    pub seq: u64,
    /// What is asked.
    pub request: Request,
}

/// What the engine may ask of a supervisor. Every request may be sent twice: the second one changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Request {
    /// The range of versions the sender speaks; answered by [`Answer::Hello`] or [`ErrorCode::Version`].
    Hello {
        /// The oldest version the sender speaks.
        oldest: u32,
        /// The newest version the sender speaks.
        newest: u32,
    },
    /// Send this connection every [`Event`] from now on. Answered by [`Answer::List`], so that nothing falls between.
    Subscribe,
    /// Make a container (cgroup, namespaces, rootfs) whose process waits to be started. Answered by
    /// [`Answer::Created`].
    Create(CreateContainer),
    /// Let a created container's process execute its program. Answered by [`Answer::Started`], or by
    /// [`ErrorCode::ExecFailed`] when the program could not be executed.
    #[serde(rename_all = "camelCase")]
    Start {
        /// The container.
        container: String,
    },
    /// Send a signal. Answered by [`Answer::Done`], also when the process is gone already.
    #[serde(rename_all = "camelCase")]
    Kill {
        /// The container.
        container: String,
        /// The signal's number.
        signal: i32,
        /// Whom the signal is for.
        scope: KillScope,
    },
    /// Run another process inside a running container. Three descriptors (stdin, stdout, stderr) come with the packet.
    /// Answered by [`Answer::ExecDone`] when the process has ended.
    #[serde(rename_all = "camelCase")]
    Exec {
        /// The container.
        container: String,
        /// Names this exec among the container's.
        exec: String,
        /// A file with the OCI `Process` to run (arguments, environment, user, capabilities, working directory).
        process: String,
        /// The whole process tree is killed after so many milliseconds; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Kill an exec's whole process tree, as its time-out would. Answered by [`Answer::Done`], also when it is over.
    #[serde(rename_all = "camelCase")]
    KillExec {
        /// The container.
        container: String,
        /// The exec.
        exec: String,
    },
    /// Close and open a container's log file again, after a rotation renamed it. Answered by [`Answer::Done`].
    #[serde(rename_all = "camelCase")]
    ReopenLog {
        /// The container.
        container: String,
    },
    /// Copy a container's output from now on. Two descriptors (for stdout and stderr) come with the packet; they are
    /// closed when the container's own end. One that does not take its bytes at once loses them: the log has them all.
    /// Answered by [`Answer::Done`]; with it comes one descriptor if the container has an open standard input: what is
    /// written to it reaches the container. For a container with a terminal it is the terminal's master, for its size too,
    /// and all output is on the first descriptor.
    #[serde(rename_all = "camelCase")]
    Attach {
        /// The container.
        container: String,
    },
    /// Let go of the supervisor's end of a container's standard input, so that the container reads its end when every
    /// descriptor that an attach handed out is closed too. Answered by [`Answer::Done`].
    #[serde(rename_all = "camelCase")]
    CloseStdin {
        /// The container.
        container: String,
    },
    /// Every container the supervisor knows. Answered by [`Answer::List`].
    List,
    /// Kill what is left of a container, remove its cgroup and forget it. Answered by [`Answer::Done`].
    #[serde(rename_all = "camelCase")]
    Remove {
        /// The container.
        container: String,
    },
    /// Kill every container, remove their cgroups, answer [`Answer::Done`] and end.
    Shutdown,
}

/// Whom a [`Request::Kill`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KillScope {
    /// The container's first process only.
    Init,
    /// Every process in the container's cgroup.
    All,
}

/// How to make a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateContainer {
    /// The container's id: 1 to 64 characters of `[a-z0-9]`.
    pub container: String,
    /// A directory with `config.json` (the OCI runtime configuration). The supervisor keeps its own state for the
    /// container there too: `exit.json`, the library's state directory.
    pub bundle: String,
    /// Whether this is the pod's infra container, whose end is the end of the sandbox.
    pub infra: bool,
    /// Whether every process of the container is bound by the seccomp filter in the bundle, [`SECCOMP_FILE`].
    #[serde(default)]
    pub seccomp: bool,
    /// Where standard output and error go, in the CRI log format; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_path: Option<String>,
    /// Whether a pipe is held open on standard input; otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Kill every process of the container's cgroup when its first process ends. Needed where the container has no pid
    /// namespace of its own.
    #[serde(default)]
    pub kill_all_on_exit: bool,
    /// What `oom_score_adj` the processes get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// The program that makes the container; absent: the supervisor does by itself. An infra container's is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciRuntime>,
}

/// An OCI runtime that is a program of its own, with the command line of runc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciRuntime {
    /// Its path.
    pub path: String,
    /// Options before the verb of each call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Options of `create`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub create_args: Vec<String>,
    /// Whether its `exec` takes `--cgroup`, the group below the container's in which the process starts.
    #[serde(default)]
    pub exec_cgroup: bool,
}

/// What a supervisor sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Message {
    /// The answer to the request with the same number.
    Reply {
        /// The request's number.
        seq: u64,
        /// The answer.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was done.
    Answer(Answer),
    /// It was not.
    Error(Failure),
}

/// The answer to a request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Answer {
    /// The answer to [`Request::Hello`].
    Hello {
        /// The version to speak.
        version: u32,
        /// The supervisor's pid.
        pid: i32,
        /// The sandbox it supervises.
        sandbox: String,
    },
    /// The container's process waits to be started.
    Created {
        /// Its pid, as the host sees it.
        pid: i32,
    },
    /// The container's program runs.
    #[serde(rename_all = "camelCase")]
    Started {
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    /// An exec ended.
    #[serde(rename_all = "camelCase")]
    ExecDone {
        /// Its exit code; 128 + n when signal n ended it.
        exit_code: i32,
        /// Whether the time-out ended it.
        timed_out: bool,
    },
    /// Every container the supervisor knows.
    List {
        /// In order of creation.
        containers: Vec<ContainerState>,
    },
    /// Nothing to say but that it was done.
    Done,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What kind of failure it is.
    pub code: ErrorCode,
    /// What failed and why, for people; the whole chain of causes.
    pub message: String,
}

/// The kinds of failure that the engine treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// No version is spoken by both sides.
    Version,
    /// The packet could not be understood.
    BadRequest,
    /// There is no such container.
    NotFound,
    /// The container is not in a state in which this can be done.
    WrongState,
    /// The program could not be executed (missing, not executable, wrong format).
    ExecFailed,
    /// Anything else.
    Internal,
}

/// What a supervisor knows of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// The container.
    pub container: String,
    /// Whether it is the infra container.
    pub infra: bool,
    /// Its first process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When its program was executed, in nanoseconds since 1970; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// How it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Event {
    /// Its first process ended; the record is on disk already, and everything it wrote is in its log.
    #[serde(rename_all = "camelCase")]
    Exited {
        /// The container.
        container: String,
        /// How it ended.
        exit: ExitRecord,
    },
    /// The kernel killed a process of the container for want of memory. The container may go on.
    Oom {
        /// The container.
        container: String,
    },
}

/// How a container ended: `exit.json` in its bundle, written before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// The version of this format: [`ExitRecord::VERSION`].
    pub v: u32,
    /// The exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// When its program was executed, in nanoseconds since 1970; 0 if it never was.
    pub started_at: i64,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
}

impl ExitRecord {
    /// The present version of the format.
    pub const VERSION: u32 = 1;
    /// The record's file name in the bundle.
    pub const FILE: &'static str = "exit.json";
}
