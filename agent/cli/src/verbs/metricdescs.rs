//! `metricdescs`: which metrics the runtime has, with their labels.
//!
//! In: nothing. Out: the runtime's answer as JSON or YAML.

use pintle_cri_api::v1::ListMetricDescriptorsRequest;

use crate::{
    error::CliError,
    io::Io,
    output::{self, TreeFormat},
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct MetricdescsArgs {
    #[arg(short, long, default_value = "json")]
    output: TreeFormat,
}

pub(crate) async fn run(args: MetricdescsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let answer = client.list_metric_descriptors(ListMetricDescriptorsRequest {});
    let answer = session.call(Call::quick("list the descriptors of metrics"), answer).await?;
    output::tree(io, args.output, &output::value("runtime.v1.ListMetricDescriptorsResponse", &answer)?)
}
