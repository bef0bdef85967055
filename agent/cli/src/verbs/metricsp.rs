//! `metricsp`: the metrics of pods and their containers.
//!
//! In: nothing. Out: the runtime's answer as JSON or YAML, once or every second.

use std::time::Duration;

use pintle_cri_api::v1::ListPodSandboxMetricsRequest;

use crate::{
    error::CliError,
    io::Io,
    output::{self, TreeFormat},
    session::{Call, Session},
};

/// Between two lists that are watched.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct MetricspArgs {
    #[arg(short, long, default_value = "json")]
    output: TreeFormat,
    /// Again and again
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: MetricspArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    loop {
        let mut client = session.runtime().await?;
        let answer = client.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {});
        let answer = session.call(Call::quick("list the metrics of pods"), answer).await?;
        let value = output::value("runtime.v1.ListPodSandboxMetricsResponse", &answer)?;
        output::tree(io, args.output, &value)?;
        if !args.watch {
            return Ok(());
        }
        io.flush()?;
        tokio::time::sleep(PERIOD).await;
    }
}
