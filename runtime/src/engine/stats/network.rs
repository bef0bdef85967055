//! What went over a pod's interfaces, read inside its network namespace without entering it.
//!
//! In: the process of the infra container. Out: the counters of each interface but lo, the default one first known by the
//! routes. The files are read through one handle on the process, so that its number cannot come to mean another one on
//! the way.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

/// The most bytes of a file: interfaces and routes of a pod are few.
const MAX_FILE: u64 = 1024 * 1024;
/// The default interface of a pod without a default route.
const USUAL_NAME: &str = "eth0";

/// Counters since the interface was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Counters,
    pub(crate) sent: Counters,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// The interfaces of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) default: Option<Interface>,
    pub(crate) others: Vec<Interface>,
}

/// Reads the interfaces of a process that is the one that is meant, as its `cgroup` file tells.
pub(crate) fn read(pid: i32, is_meant: impl Fn(&str) -> bool) -> Option<Interfaces> {
    let process = open(rustix::fs::CWD, &format!("/proc/{pid}"), OFlags::PATH | OFlags::DIRECTORY)?;
    let file = |name: &str| text(process.as_fd(), name);
    if !is_meant(&file("cgroup")?) {
        return None;
    }
    let interfaces = parse(&file("net/dev")?);
    let by_route = default_v4(&file("net/route").unwrap_or_default());
    let by_route = by_route.or_else(|| default_v6(&file("net/ipv6_route").unwrap_or_default()));
    Some(divided(interfaces, by_route.as_deref().unwrap_or(USUAL_NAME)))
}

fn divided(mut interfaces: Vec<Interface>, default: &str) -> Interfaces {
    let at = interfaces.iter().position(|interface| interface.name == default);
    let default = at.map(|at| interfaces.remove(at));
    Interfaces { default, others: interfaces }
}

fn open(at: BorrowedFd<'_>, path: &str, flags: OFlags) -> Option<OwnedFd> {
    rustix::fs::openat(at, path, flags | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn text(process: BorrowedFd<'_>, name: &str) -> Option<String> {
    let mut text = String::new();
    let file = File::from(open(process, name, OFlags::RDONLY)?);
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `/proc/<pid>/net/dev`: two lines of header, then a line for each interface.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let counters = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)?.first_chunk()?;
            Some(Counters { bytes, packets, errors, dropped })
        };
        Some(Interface { name: name.trim().to_owned(), received: counters(0)?, sent: counters(8)? })
    };
    text.lines().skip(2).filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

/// The interface of the IPv4 route to everywhere with the lowest metric.
fn default_v4(text: &str) -> Option<String> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, _, _, _, _, metric, mask, ..] = *words.as_slice() else { return None };
        let everywhere = destination == "00000000" && mask == "00000000";
        everywhere.then_some((metric.parse::<u32>().ok()?, name.to_owned()))
    };
    text.lines().skip(1).filter_map(route).min().map(|(_, name)| name)
}

/// The same of IPv6.
fn default_v6(text: &str) -> Option<String> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, _, metric, _, _, _, name] = *words.as_slice() else { return None };
        let everywhere = destination.bytes().all(|byte| byte == b'0') && length == "00" && name != "lo";
        everywhere.then_some((u32::from_str_radix(metric, 16).ok()?, name.to_owned()))
    };
    text.lines().filter_map(route).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 230683415   11083    0    0    0     0          0         0 230683415   11083    0    0    0     0       0          0
  eth0: 152835002    6646    1    2    0     0          0         0   385617    4393    3    4    0     0       0          0
  net1:       5       6    0    0    0     0          0         0        7       8    0    0    0     0       0          0
";

    #[test]
    fn counters_are_read_and_the_default_interface_is_the_one_of_the_route() {
        let found = divided(parse(DEV), "eth0");
        let eth0 = found.default.unwrap();
        assert_eq!(eth0.received, Counters { bytes: 152_835_002, packets: 6646, errors: 1, dropped: 2 });
        assert_eq!(eth0.sent, Counters { bytes: 385_617, packets: 4393, errors: 3, dropped: 4 });
        assert_eq!(found.others.len(), 1);
        assert_eq!(divided(parse(DEV), "net1").default.unwrap().name, "net1");
        assert_eq!(divided(parse(""), "eth0"), Interfaces::default());
    }

    #[test]
    fn the_route_with_the_lowest_metric_counts() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                      net1 00000000 010200C0 0003 0 0 100 00000000 0 0 0\n\
                      eth0 00000000 010200C0 0003 0 0 10 00000000 0 0 0\n\
                      net2 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(default_v4(routes).as_deref(), Some("eth0"));
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 fe80000000000000 00000400 1 0 00000003 eth0\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n"
        );
        assert_eq!(default_v6(&v6).as_deref(), Some("eth0"));
        assert_eq!(default_v4(""), None);
    }
}
