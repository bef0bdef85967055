//! Imports an archive, or pulls an image, into a fresh store some times over and prints how long each took.
//!
//! In: `throughput import|pull <archive|image> [times]`. Out: a line per run and the median, with the largest memory. For
//! tuning; `make bench` is what compares with others.

#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::path::Path;
use std::time::{Duration, Instant};

use pintle_image::{ImageStore, ImportOptions, PullOptions};

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, what, source, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: throughput import|pull <archive|image> [times]");
        std::process::exit(2);
    };
    let times = rest.first().map_or(5, |n| n.parse().unwrap());
    // The stores stay until the end: ext4 searches long for inodes where many were freed a moment ago.
    let dirs: Vec<_> = (0..times).map(|_| tempfile::tempdir_in(".").unwrap()).collect();
    let mut taken: Vec<_> = dirs.iter().map(|dir| once(what, source, dir.path())).collect();
    taken.sort();
    println!("median {:?}, largest memory {} KiB", taken[taken.len() / 2], peak_memory());
}

fn once(what: &str, source: &str, root: &Path) -> Duration {
    let store = ImageStore::open(root).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let begin = Instant::now();
    if what == "import" {
        store.import(std::fs::File::open(source).unwrap(), ImportOptions::default()).unwrap();
    } else {
        runtime.block_on(store.pull(source, PullOptions::default())).unwrap();
    }
    let taken = begin.elapsed();
    println!("{what}: {taken:?}");
    taken
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
