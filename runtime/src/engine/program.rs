//! The supervisor's program, kept from being written to by those who get at it through a process.
//!
//! In: the program's path. Out: commands that run it. It starts nothing.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{fs::CWD, mount::OpenTreeFlags};
use tokio::process::Command;

use crate::sys;

/// The supervisor's program. It is run from a read-only mount of its directory that is attached nowhere: whoever gets at a
/// supervisor's `/proc/PID/exe`, from inside a container above all, cannot write to the node's file through it.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    sealed: Option<(OwnedFd, OsString)>,
}

impl Program {
    /// Takes the program as it is where the kernel cannot seal it.
    #[must_use]
    pub fn seal(path: &Path) -> Self {
        let sealed = seal(path).inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "the supervisor cannot be sealed"),
        );
        Self { path: path.to_owned(), sealed: sealed.ok() }
    }

    /// The program as it is.
    #[must_use]
    pub fn unsealed(path: &Path) -> Self {
        Self { path: path.to_owned(), sealed: None }
    }

    /// Where it is on the node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let Some((directory, name)) = &self.sealed else { return Command::new(&self.path) };
        let sealed = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        let mut command = Command::new(sealed);
        command.arg0(&self.path);
        command
    }
}

fn seal(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let real = path.canonicalize()?;
    let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut start = [0; 2];
    io::Read::read_exact(&mut std::fs::File::open(&real)?, &mut start)?;
    if start == *b"#!" {
        return Err(io::Error::other("it is a script, which its interpreter could not open"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(CWD, directory, flags)?;
    sys::make_mount_read_only(mount.as_fd())?;
    Ok((mount, name.to_owned()))
}
