//! `info`: the runtime's own status.
//!
//! In: nothing. Out: its conditions, handlers, features and extra information, as JSON or YAML.

use pintle_cri_api::v1::{StatusRequest, StatusResponse};

use crate::{
    error::CliError,
    io::Io,
    output::{self, TreeFormat},
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Without the runtime's extra information
    #[arg(short, long)]
    quiet: bool,
    #[arg(short, long, default_value = "json")]
    output: TreeFormat,
}

pub(crate) async fn run(args: InfoArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let request = StatusRequest { verbose: !args.quiet };
    let answer = session.call(Call::quick("ask for the status"), client.status(request)).await?;
    let info = answer.info.clone();
    let answer = StatusResponse { info: Default::default(), ..answer };
    let mut whole = output::value("runtime.v1.StatusResponse", &answer)?;
    let mut value = output::inspected(whole["status"].take(), info);
    for name in ["runtimeHandlers", "features"] {
        if !whole[name].is_null() {
            value[name] = whole[name].take();
        }
    }
    output::tree(io, args.output, &value)
}
