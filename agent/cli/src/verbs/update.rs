//! `update`: changes the limits of containers.
//!
//! In: containers and the limits that change. Out: the id of each one changed; goes on after errors.

use std::io::Write as _;

use pintle_cri_api::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct UpdateArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Limits {
    /// Period of the processor limit, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Processor time in a period, in microseconds; -1: without limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Weight among those who want a processor; 1024 is usual
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<i64>,
    /// Processors, e.g. 0-3,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, e.g. 0
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, in bytes; -1: without limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Memory and swap together, in bytes; -1: without limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_swap: Option<i64>,
}

pub(crate) async fn run(args: UpdateArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let limits = &args.limits;
    let linux = LinuxContainerResources {
        cpu_period: limits.cpu_period.unwrap_or_default(),
        cpu_quota: limits.cpu_quota.unwrap_or_default(),
        cpu_shares: limits.cpu_share.unwrap_or_default(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        memory_limit_in_bytes: limits.memory.unwrap_or_default(),
        memory_swap_limit_in_bytes: limits.memory_swap.unwrap_or_default(),
        ..Default::default()
    };
    let mut errors = Vec::new();
    for id in resolve::container_ids(session, &args.containers).await? {
        match update(session, &id, linux.clone()).await {
            Ok(()) => writeln!(io.out, "{id}")?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

async fn update(session: &Session, id: &str, linux: LinuxContainerResources) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let call = Call::slow(format!("update container {id}")).on(Noun::Container);
    session.call(call, client.update_container_resources(request)).await.map(drop)
}
