//! What the kernel says of processes: memory, processor time, who belongs to whom.
//!
//! In: process ids, or a text that a command line holds. Out: figures. Changes nothing but by [`kill`].

use std::fs;

use anyhow::{Context as _, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use rustix::process::{Pid, Signal, kill_process};

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Its own pages and its share of those that it shares.
    pub(crate) pss: f64,
    /// Pages that nobody else has and that were written to.
    pub(crate) private_dirty: f64,
}

/// A process's memory, from `smaps_rollup`.
pub(crate) fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter_map(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok())
            .next()
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory { pss: field("Pss:")?, private_dirty: field("Private_Dirty:")? })
}

/// Processor time that a process has had, with that of threads that have ended, in milliseconds.
///
/// By the process's own clock: `utime` and `stime` count in ticks of 10 ms, which is more than an idle daemon uses in many
/// seconds.
pub(crate) fn cpu_ms(pid: i32) -> Result<f64> {
    let pid = nix::unistd::Pid::from_raw(pid);
    let clock = clock_getcpuclockid(pid).with_context(|| format!("the clock of process {pid}"))?;
    let time = clock_gettime(clock).with_context(|| format!("the clock of process {pid}"))?;
    Ok(std::time::Duration::from(time).as_secs_f64() * 1e3)
}

/// A living process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
    pub(crate) cgroups: String,
}

/// Every process that is not a zombie.
pub(crate) fn processes() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let text = |name: &str| String::from_utf8_lossy(&read(name)).into_owned();
        let stat = text("stat");
        if stat.is_empty() || stat.contains(") Z ") {
            continue;
        }
        found.push(Process { pid, command: text("cmdline").replace('\0', " "), cgroups: text("cgroup") });
    }
    found
}

/// Kills a process that this run started. One that is gone already is none.
pub(crate) fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, signal).ok();
    }
}

/// The machine's load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0.0));
    std::array::from_fn(|_| words.next().unwrap_or(0.0))
}
