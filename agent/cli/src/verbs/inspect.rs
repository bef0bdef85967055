//! `inspect`: everything the runtime knows about containers.
//!
//! In: containers. Out: `{"status": …, …}` as JSON or YAML; a list of them for several.

use pintle_cri_api::v1::ContainerStatusRequest;

use crate::{
    error::{CliError, Noun},
    io::Io,
    output, resolve,
    session::{Call, Session},
    verbs::list::{self, InspectionArgs},
};

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    how: InspectionArgs,
}

pub(crate) async fn run(args: InspectArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let mut values = Vec::new();
    for container_id in resolve::container_ids(session, &args.containers).await? {
        let call = Call::quick(format!("inspect container {container_id}")).on(Noun::Container);
        let request = ContainerStatusRequest { container_id, verbose: !args.how.quiet };
        let answer = session.call(call, client.container_status(request)).await?;
        let status = output::value("runtime.v1.ContainerStatus", &answer.status.unwrap_or_default())?;
        values.push(output::inspected(status, answer.info));
    }
    list::print_inspected(values, &args.how, io)
}
