//! One call of a runtime's program.
//!
//! In: the runtime, the container's bundle, a verb with its arguments, the program's standard descriptors. Out: nothing, or
//! why it failed, in the runtime's own words: they are read back, as far as [`MAX_LOG`] goes, from a log of its own for each
//! call. Runs in a forked helper and may wait.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use pintle_shim_protocol::OciRuntime;
use serde::Deserialize;

use crate::cgroup;
use crate::helper::STATE;

/// How much is read of the end of a log.
const MAX_LOG: u64 = 16 * 1024;
/// The most characters that an error quotes of it.
const MAX_QUOTE: usize = 2048;
/// The most bytes read of what should be a number.
const MAX_NUMBER: u64 = 32;
/// All of the environment: the supervisor has none either.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a call did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("making {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("running {program}")]
    Run { program: String, source: io::Error },
    #[error("{program} {verb}: {reason}")]
    Failed { program: String, verb: &'static str, reason: String, status: ExitStatus },
    #[error("{program}: reading its pid file")]
    PidFile { program: String, source: io::Error },
    #[error("{program}: its pid file says {text:?}, which is no child of the supervisor")]
    NotOurs { program: String, text: String },
    #[error("the container's cgroup")]
    Cgroup { source: cgroup::CgroupError },
}

/// A call to be made.
#[derive(Debug)]
pub(super) struct Call<'a> {
    runtime: &'a OciRuntime,
    bundle: &'a Path,
    verb: &'static str,
    /// Names the call's files.
    name: String,
    arguments: Vec<OsString>,
}

impl<'a> Call<'a> {
    pub(super) fn new(runtime: &'a OciRuntime, bundle: &'a Path, verb: &'static str, name: String) -> Self {
        Self { runtime, bundle, verb, name, arguments: Vec::new() }
    }

    pub(super) fn argument(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Asks for the pid of the process that is made.
    pub(super) fn with_pid_file(&mut self) -> &mut Self {
        let path = self.pid_file();
        self.argument("--pid-file").argument(path)
    }

    fn pid_file(&self) -> PathBuf {
        self.bundle.join(format!("{}.pid", self.name))
    }

    /// Makes the call and waits until the program has ended.
    pub(super) fn run(&self, stdio: [Stdio; 3]) -> Result<(), CallError> {
        let root = self.bundle.join(STATE);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(|source| CallError::Directory { path: root.clone(), source })?;
        let log = self.bundle.join(format!("{}.log", self.name));
        let [stdin, stdout, stderr] = stdio;
        let status = Command::new(&self.runtime.path)
            .args(&self.runtime.args)
            .arg("--root")
            .arg(&root)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", self.verb])
            .args(&self.arguments)
            .current_dir(self.bundle)
            .env_clear()
            .env("PATH", PATH)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .status();
        let said = read_end(&log);
        // Missing, when it had nothing to say.
        fs::remove_file(&log).unwrap_or_default();
        let status = status.map_err(|source| CallError::Run { program: self.program(), source })?;
        if status.success() {
            return Ok(());
        }
        let reason = reason(&said, status);
        Err(CallError::Failed { program: self.program(), verb: self.verb, reason, status })
    }

    /// The process that the runtime has made: a child of our parent's, which takes what is orphaned.
    pub(super) fn process(&self) -> Result<i32, CallError> {
        let path = self.pid_file();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_NUMBER).read_to_string(&mut text));
        fs::remove_file(&path).unwrap_or_default();
        read.map_err(|source| CallError::PidFile { program: self.program(), source })?;
        let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1 && parent_of(*pid) == supervisor());
        pid.ok_or_else(|| CallError::NotOurs { program: self.program(), text: text.trim().to_owned() })
    }

    /// Removes the pid file of a process that nobody asks for.
    pub(super) fn forget_process(&self) {
        // Missing, when there was no process.
        fs::remove_file(self.pid_file()).unwrap_or_default();
    }

    fn program(&self) -> String {
        self.runtime.path.clone()
    }
}

fn supervisor() -> Option<i32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read_end(log: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let mut read = || -> io::Result<()> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG)))?;
        file.take(MAX_LOG).read_to_end(&mut text).map(drop)
    };
    // What cannot be read says nothing.
    read().unwrap_or_default();
    text
}

/// A line of a log in the format `json`.
#[derive(Deserialize)]
struct Line {
    level: String,
    msg: String,
}

/// The last error in the log, else its last line, else how the program ended.
fn reason(log: &[u8], status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(log);
    let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty()).peekable();
    let last = lines.peek().map(|line| (*line).to_owned());
    let is_error = |line: &Line| ["error", "fatal", "panic"].contains(&line.level.as_str());
    let error = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()).find(is_error);
    let told = error.map(|line| line.msg).or(last);
    let quoted: String = told
        .unwrap_or_default()
        .chars()
        .take(MAX_QUOTE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if quoted.is_empty() { format!("ended with {status} and no word about it") } else { quoted }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn told(log: &str) -> String {
        reason(log.as_bytes(), ExitStatus::from_raw(1 << 8))
    }

    #[test]
    fn the_reason_is_the_runtimes_last_error_else_its_last_word_else_its_exit_code() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"level\":\"error\",\"msg\":\"the \\u001bcause\",\"time\":\"t\"}\n{\"level\":\"debug\",\"msg\":\"bye\"}\n";
        assert_eq!(told(log), "the  cause");
        assert_eq!(told("garbage\n{\"x\": 1}\nno json at all\n\n"), "no json at all");
        assert_eq!(told(""), "ended with exit status: 1 and no word about it");
        assert_eq!(told(&"x".repeat(100_000)).len(), MAX_QUOTE);
    }

    #[test]
    fn only_the_end_of_a_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, format!("{}end", "x".repeat(100_000))).unwrap();
        let end = read_end(&log);
        assert_eq!(end.len(), 16 * 1024);
        assert!(end.ends_with(b"end"));
        assert!(read_end(&dir.path().join("none")).is_empty());
    }
}
