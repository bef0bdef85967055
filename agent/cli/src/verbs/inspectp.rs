//! `inspectp`: everything the runtime knows about pod sandboxes.
//!
//! In: pods. Out: `{"status": …, …}` as JSON or YAML; a list of them for several.

use pintle_cri_api::v1::PodSandboxStatusRequest;

use crate::{
    error::{CliError, Noun},
    io::Io,
    output, resolve,
    session::{Call, Session},
    verbs::list::{self, InspectionArgs},
};

#[derive(Debug, clap::Args)]
pub struct InspectpArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "POD", required = true)]
    pods: Vec<String>,
    #[command(flatten)]
    how: InspectionArgs,
}

pub(crate) async fn run(args: InspectpArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let mut values = Vec::new();
    for pod_sandbox_id in resolve::pod_ids(session, &args.pods).await? {
        let call = Call::quick(format!("inspect pod {pod_sandbox_id}")).on(Noun::Pod);
        let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: !args.how.quiet };
        let answer = session.call(call, client.pod_sandbox_status(request)).await?;
        let status = output::value("runtime.v1.PodSandboxStatus", &answer.status.unwrap_or_default())?;
        values.push(output::inspected(status, answer.info));
    }
    list::print_inspected(values, &args.how, io)
}
