//! Why a pod is as it is: the question to the agent behind the socket.
//!
//! In: a pod's name. Out: the causal chain as the agent's JSON. Its text form belongs to the `explain` command.

use pintle_cri_api::ext::ExplainRequest;

use crate::{
    error::CliError,
    session::Session,
    settings::{GlobalArgs, Settings},
};

/// Asks the agent to explain pod `namespace`/`name`. The answer is JSON.
pub async fn explanation(global: GlobalArgs, namespace: &str, name: &str) -> Result<String, CliError> {
    let session = Session::new(Settings::of(global)?);
    let request = ExplainRequest { namespace: namespace.to_owned(), name: name.to_owned() };
    let mut client = session.pintle_agent().await?;
    Ok(session.call_pintle("explain a pod", client.explain(request)).await?.json)
}
