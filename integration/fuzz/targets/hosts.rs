//! Fuzzes registry configurations: `hosts.toml`.
//!
//! In: a file's bytes. Checked: no panic; what is accepted names hosts that requests can be sent to, the registry itself last,
//! with repositories that are some after their rewriting; errors are short and name the file.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the image store")]

#[path = "../../../runtime/image/src/digest.rs"]
mod digest;
#[path = "../../../runtime/image/src/error.rs"]
mod error;
#[path = "../../../runtime/image/src/go_duration.rs"]
mod go_duration;
#[path = "../../../runtime/image/src/hosts.rs"]
mod hosts;
#[path = "../../../runtime/image/src/limits.rs"]
mod limits;
#[path = "../../../runtime/image/src/reference.rs"]
mod reference;
#[path = "../../../runtime/image/src/rewrite.rs"]
mod rewrite;

use std::path::Path;

use error::Error;
use hosts::Host;
use libfuzzer_sys::fuzz_target;

/// Nothing is there: files that a configuration names cannot be read.
const FILE: &str = "/nowhere/registry.example/hosts.toml";

fuzz_target!(|data: &[u8]| {
    match hosts::parse_file(Path::new(FILE), data.to_vec(), "registry.example") {
        Ok(hosts) => {
            let own = hosts.last().expect("the registry itself");
            assert!(!own.is_mirror && own.rewrites.is_empty());
            hosts.iter().for_each(check);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, Error::Config { .. }) && text.contains(FILE), "{text}");
            assert!(text.len() < 16384, "a message of {} bytes", text.len());
        }
    }
});

fn check(host: &Host) {
    assert!(!host.authority.is_empty() && !host.authority.contains(['/', '@', '?', '#']));
    assert!(host.path.is_empty() || host.path.starts_with('/') && !host.path.ends_with('/'), "{}", host.path);
    assert!(!host.path.split('/').any(|part| part == ".."));
    for (name, value) in &host.headers.0 {
        assert!(!name.is_empty() && !format!("{name}{value}").contains(['\r', '\n', '\0']));
    }
    for repository in ["library/busybox", "a/b/c"] {
        if let Ok(renamed) = rewrite::apply(&host.rewrites, repository) {
            assert!(reference::check_repository(&renamed).is_ok(), "{renamed}");
        }
    }
}
