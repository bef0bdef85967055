//! The Pintle binary: node agent, container engine and command line.
#![allow(dead_code)]
mod cgroups;
mod config;
mod container_config;
mod dns;
mod failpoint;
mod hosts_file;
mod mounts;
mod pod_sources;
mod runtime;
mod sandbox_config;
mod termination_message;
mod volumes;

fn main() {}
