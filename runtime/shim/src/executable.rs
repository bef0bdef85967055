//! Becoming a container's program.
//!
//! In: arguments and environment of an OCI process, inside the container already, and a filter to load at last. Out: does not return when it succeeds;
//! else the reason. The search is our own: libcontainer's asks for a world-executable file, wants PATH to be set and lets
//! the C library hand what is no program to /bin/sh. Nothing here ever runs a shell that was not asked for.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD};

use crate::identity::{self, Filter, IdentityError};
use crate::sys;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the program does not run. The texts are the ones people know from other runtimes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecutableError {
    #[error("no program is given")]
    NoProgram,
    #[error("exec: an argument or a variable of the environment holds a zero byte")]
    ZeroByte,
    #[error("exec: {program:?}: executable file not found in $PATH ({path})")]
    NotInPath { program: String, path: String },
    #[error("exec: {program:?}: no such file or directory")]
    Missing { program: String },
    #[error(
        "exec: {file:?}: no such file or directory: the file is there, but its interpreter or loader is not"
    )]
    NoInterpreter { file: String },
    #[error("exec: {file:?}: permission denied")]
    Denied { file: String },
    #[error("exec: {file:?}: exec format error")]
    Format { file: String },
    #[error("exec: {file:?}: is the supervisor itself")]
    Supervisor { file: String },
    #[error("exec: {file:?}")]
    Other { file: String, source: Errno },
    #[error(transparent)]
    Filter { source: IdentityError },
}

/// What to become.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    arguments: &'a [String],
    environment: Vec<String>,
    /// Loaded when there is nothing left to do but to execute.
    filter: Option<&'a Filter>,
}

impl<'a> Program<'a> {
    /// Of a process that is who it shall be.
    pub(crate) fn of(process: &'a Process, filter: Option<&'a Filter>) -> Self {
        Self {
            arguments: process.args().as_deref().unwrap_or_default(),
            environment: identity::environment(process),
            filter: filter.filter(|_| Filter::is_last(process)),
        }
    }
}

/// Executes the program. Its environment is passed as it is.
pub(crate) fn execute(wanted: &Program<'_>) -> Result<Infallible, ExecutableError> {
    let Program { arguments, environment, filter } = wanted;
    let program =
        arguments.first().filter(|program| !program.is_empty()).ok_or(ExecutableError::NoProgram)?;
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let call = Call {
        arguments: strings(arguments).map_err(|_| ExecutableError::ZeroByte)?,
        environment: strings(environment).map_err(|_| ExecutableError::ZeroByte)?,
        filter: Cell::new(*filter),
    };
    sys::default_signals();
    if program.contains('/') {
        return Err(call.attempt(program).unwrap_or(ExecutableError::Missing { program: program.clone() }));
    }
    let path = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut worst = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match call.attempt(&format!("{directory}/{program}")) {
            // A directory one may not look into does not end the search.
            Some(denied @ ExecutableError::Denied { .. }) => worst = Some(denied),
            Some(error) => return Err(error),
            None => {}
        }
    }
    Err(worst.unwrap_or(ExecutableError::NotInPath { program: program.clone(), path: path.to_owned() }))
}

struct Call<'a> {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    filter: Cell<Option<&'a Filter>>,
}

impl Call<'_> {
    /// Returns only when it failed. None: there is no such file.
    fn attempt(&self, file: &str) -> Option<ExecutableError> {
        let file = file.to_owned();
        let Ok(name) = CString::new(file.as_str()) else { return Some(ExecutableError::ZeroByte) };
        if is_supervisor(Path::new(&file)) {
            return Some(ExecutableError::Supervisor { file });
        }
        if let Some(filter) = self.filter.get() {
            // Loaded once, so not for a file that is not there.
            match rustix::fs::accessat(CWD, name.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS) {
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return None,
                Err(rustix::io::Errno::ACCESS) => return Some(ExecutableError::Denied { file }),
                Ok(()) | Err(_) => {}
            }
            self.filter.set(None);
            if let Err(source) = filter.load() {
                return Some(ExecutableError::Filter { source });
            }
        }
        let Err(errno) = nix::unistd::execve(&name, &self.arguments, &self.environment);
        if errno == Errno::ENOENT && fs::metadata(&file).is_ok() {
            Some(ExecutableError::NoInterpreter { file })
        } else if [Errno::ENOENT, Errno::ENOTDIR].contains(&errno) {
            None
        } else if [Errno::EACCES, Errno::EPERM].contains(&errno) {
            Some(ExecutableError::Denied { file })
        } else if errno == Errno::ENOEXEC {
            Some(ExecutableError::Format { file })
        } else {
            Some(ExecutableError::Other { file, source: errno })
        }
    }
}

/// How many interpreters of interpreters the kernel follows, and some more.
const MAX_INTERPRETERS: usize = 8;

/// Whether the file, or an interpreter in the chain that its first line begins, is the supervisor's own executable: a
/// container that could run it (as `/proc/self/exe`) would hold the host's file open. The container may still change a file
/// between this look and the execution, so the engine runs the supervisor from a mount that cannot be written through;
/// this gives the reason in words.
fn is_supervisor(file: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let Ok(own) = identity(Path::new("/proc/self/exe")) else { return false };
    let is_own = |path: &Path| identity(path).is_ok_and(|found| found == own);
    let mut next = Some(file.to_owned());
    for _ in 0..MAX_INTERPRETERS {
        let Some(present) = next else { return false };
        if is_own(&present) {
            return true;
        }
        next = interpreter(&present).ok().flatten().map(PathBuf::from);
    }
    false
}

fn interpreter(file: &Path) -> io::Result<Option<String>> {
    if !fs::metadata(file)?.is_file() {
        return Ok(None);
    }
    let mut start = Vec::with_capacity(256);
    File::open(file)?.take(256).read_to_end(&mut start)?;
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(rest) = first_line.strip_prefix(b"#!") else { return Ok(None) };
    Ok(String::from_utf8_lossy(rest).split_whitespace().next().map(str::to_owned))
}
