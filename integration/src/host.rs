//! What tests ask of the host itself: its cgroup mode, a process's cgroups, how patient to be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the host mounts its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The unified hierarchy only.
    V2,
    /// Controllers in hierarchies of version 1 (with or without a unified one beside them).
    V1,
}

/// The host's cgroup mode.
pub fn cgroup_mode() -> Mode {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { Mode::V2 } else { Mode::V1 }
}

/// The directory of a process's cgroup for a controller.
///
/// # Panics
/// When the process is gone or has no such cgroup.
pub fn cgroup_path_of(pid: i32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives");
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let path = path.trim_start_matches('/');
        match cgroup_mode() {
            Mode::V2 if controllers.is_empty() => return Path::new("/sys/fs/cgroup").join(path),
            Mode::V1 if controllers.split(',').any(|name| name == controller) => {
                return Path::new("/sys/fs/cgroup").join(controllers.trim_start_matches("name=")).join(path);
            }
            Mode::V1 | Mode::V2 => {}
        }
    }
    panic!("process {pid} has no cgroup for {controller}: {text}")
}

/// A file of a process's cgroup, trimmed: `v1` or `v2` names it, depending on the host.
///
/// # Panics
/// When it cannot be read.
pub fn read_cgroup_file(pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    let file = match cgroup_mode() {
        Mode::V1 => v1,
        Mode::V2 => v2,
    };
    let path = cgroup_path_of(pid, controller).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// `seconds`, stretched by `PINTLE_TEST_TIMEOUT_SCALE` for slow machines.
pub fn time_out(seconds: u32) -> Duration {
    let scale =
        std::env::var("PINTLE_TEST_TIMEOUT_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(f64::from(seconds) * scale)
}
