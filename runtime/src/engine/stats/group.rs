//! What the kernel counts for one cgroup: processor time, memory, swap, processes, pressure.
//!
//! In: a group's path, on cgroup v1, v2 or both side by side (v1 controllers, and pressure on the v2 side). Out: numbers
//! as they are in the files; nothing where there is no file, never a made-up zero.

use std::{fs, path::PathBuf};

use pintle_cri_api::v1 as cri;

use crate::engine::cgroups::Cgroups;

/// From here on a limit of v1 means that there is none: the kernel rounds its largest number down to a page.
const UNLIMITED: u64 = 1 << 62;

/// The files of one group.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    cgroups: &'a Cgroups,
    path: &'a str,
}

/// Processor time, in nanoseconds, and what the limit took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) used: u64,
    pub(crate) user: Option<u64>,
    pub(crate) system: Option<u64>,
    pub(crate) periods: Option<u64>,
    pub(crate) throttled_periods: Option<u64>,
    pub(crate) throttled: Option<u64>,
}

/// Memory, in bytes, and faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) used: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) cache: u64,
    pub(crate) rss: u64,
    pub(crate) mapped_file: u64,
    pub(crate) inactive_file: u64,
    pub(crate) faults: u64,
    pub(crate) major_faults: u64,
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) used: u64,
    pub(crate) limit: Option<u64>,
}

impl Memory {
    /// What cannot be taken back without pain.
    pub(crate) fn working_set(&self) -> u64 {
        self.used.saturating_sub(self.inactive_file)
    }
}

impl<'a> Group<'a> {
    pub(crate) fn new(cgroups: &'a Cgroups, path: &'a str) -> Self {
        Self { cgroups, path }
    }

    /// Its path below each hierarchy's root.
    pub(crate) fn path(&self) -> &str {
        self.path
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.cgroups.is_v2()
    }

    /// A file of a controller's.
    pub(crate) fn text(&self, controller: &str, file: &str) -> Option<String> {
        read(self.cgroups.controller_dir(controller, self.path)?.join(file))
    }

    /// The number in a file; nothing when it is "max" or there is no file.
    pub(crate) fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file)?.trim().parse().ok()
    }

    /// The number in a file that is a limit; nothing when there is none.
    pub(crate) fn limit(&self, controller: &str, file: &str) -> Option<u64> {
        self.number(controller, file).filter(|limit| *limit < UNLIMITED)
    }

    pub(crate) fn cpu(&self) -> Option<Cpu> {
        if self.is_v2() {
            let stat = self.text("cpu", "cpu.stat")?;
            let nanos = |key| keyed(&stat, key).map(|micros| micros.saturating_mul(1000));
            return Some(Cpu {
                used: nanos("usage_usec")?,
                user: nanos("user_usec"),
                system: nanos("system_usec"),
                periods: keyed(&stat, "nr_periods"),
                throttled_periods: keyed(&stat, "nr_throttled"),
                throttled: nanos("throttled_usec"),
            });
        }
        let stat = self.text("cpu", "cpu.stat").unwrap_or_default();
        Some(Cpu {
            used: self.number("cpuacct", "cpuacct.usage")?,
            user: self.number("cpuacct", "cpuacct.usage_user"),
            system: self.number("cpuacct", "cpuacct.usage_sys"),
            periods: keyed(&stat, "nr_periods"),
            throttled_periods: keyed(&stat, "nr_throttled"),
            throttled: keyed(&stat, "throttled_time"),
        })
    }

    pub(crate) fn memory(&self) -> Option<Memory> {
        let v2 = self.is_v2();
        let (usage, limit) = match v2 {
            true => ("memory.current", "memory.max"),
            false => ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        };
        let used = self.number("memory", usage)?;
        let stat = self.text("memory", "memory.stat")?;
        // On v1 only what begins with total_ counts the groups below.
        let of = |v2_key, v1_key| keyed(&stat, if v2 { v2_key } else { v1_key }).unwrap_or_default();
        Some(Memory {
            used,
            limit: self.limit("memory", limit),
            cache: of("file", "total_cache"),
            rss: of("anon", "total_rss"),
            mapped_file: of("file_mapped", "total_mapped_file"),
            inactive_file: of("inactive_file", "total_inactive_file"),
            faults: of("pgfault", "total_pgfault"),
            major_faults: of("pgmajfault", "total_pgmajfault"),
        })
    }

    /// Nothing where the kernel does not count swap.
    pub(crate) fn swap(&self) -> Option<Swap> {
        if self.is_v2() {
            let used = self.number("memory", "memory.swap.current")?;
            return Some(Swap { used, limit: self.limit("memory", "memory.swap.max") });
        }
        let both = self.limit("memory", "memory.memsw.limit_in_bytes");
        let memory = self.limit("memory", "memory.limit_in_bytes");
        let used = keyed(&self.text("memory", "memory.stat")?, "total_swap")?;
        Some(Swap { used, limit: both.zip(memory).map(|(both, memory)| both.saturating_sub(memory)) })
    }

    /// Processes and threads.
    pub(crate) fn tasks(&self) -> Option<u64> {
        self.number("pids", "pids.current")
    }

    /// How long tasks waited for a resource (cpu, memory, io); nothing where the kernel does not tell.
    pub(crate) fn pressure(&self, resource: &str) -> Option<cri::PsiStats> {
        let dir = self.cgroups.unified_dir(self.path)?;
        pressure(&read(dir.join(format!("{resource}.pressure")))?)
    }
}

fn read(path: PathBuf) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number after a key in a file of `key number` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(have, _)| *have == key).and_then(|(_, number)| number.trim().parse().ok())
}

fn pressure(text: &str) -> Option<cri::PsiStats> {
    let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).and_then(stalls);
    Some(cri::PsiStats { some: Some(line("some ")?), full: line("full ") })
}

/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`: per cent, and microseconds.
fn stalls(line: &str) -> Option<cri::PsiData> {
    let of = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let average = |key| of(key)?.parse().ok();
    Some(cri::PsiData {
        total: of("total")?.parse().ok()?,
        avg10: average("avg10")?,
        avg60: average("avg60")?,
        avg300: average("avg300")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_file_is_read_by_whole_keys() {
        let text = "total_rss_huge 5\nrss 1\ntotal_rss 7\n";
        assert_eq!(keyed(text, "total_rss"), Some(7));
        assert_eq!(keyed(text, "cache"), None);
    }

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=79.46 avg60=61.21 avg300=31.98 total=254428646\n\
                    full avg10=0.00 avg60=0.50 avg300=0.00 total=7\n";
        let read = pressure(text).unwrap();
        let some = cri::PsiData { total: 254_428_646, avg10: 79.46, avg60: 61.21, avg300: 31.98 };
        assert_eq!(read.some, Some(some));
        assert_eq!(read.full.unwrap().total, 7);
        assert_eq!(pressure("some avg10=1.00 avg60=1.00 avg300=1.00 total=1\n").unwrap().full, None);
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn the_working_set_is_what_is_not_inactive_cache() {
        let memory = Memory { used: 10, inactive_file: 4, ..Default::default() };
        assert_eq!(memory.working_set(), 6);
        assert_eq!(Memory { inactive_file: 40, ..memory }.working_set(), 0);
    }
}
