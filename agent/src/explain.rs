//! `pintle explain`: why a pod is not Ready and what happens next; what is wrong with the manifests.
//!
//! In: `pod/NAME` or `manifests`. Out: the agent's answer as a tree or as JSON. The causes are the agent's.

use std::io::Write as _;

use anyhow::Context as _;
use pintle_cri_api::ext;

/// What to explain.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// pod/NAME, or manifests
    #[arg(value_name = "WHAT", value_parser = parse)]
    what: What,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// text or json
    #[arg(short, long, default_value = "text")]
    output: Format,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Pod(String),
    Manifests,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Asks the agent and prints what it says.
pub(crate) async fn run(args: ExplainArgs, global: pintle_cli::GlobalArgs) -> anyhow::Result<()> {
    let settings = pintle_cli::Settings::of(global).map_err(|e| anyhow::anyhow!("{}", e.report()))?;
    let endpoint = &settings.runtime_endpoint;
    let connected = pintle_cri_api::connect(endpoint).await;
    let channel = connected.map_err(|e| anyhow::anyhow!("{}", pintle_cli::CliError::Connect(e).report()))?;
    let name = match args.what {
        What::Pod(name) => name,
        What::Manifests => String::new(),
    };
    let request = ext::ExplainRequest { namespace: args.namespace, name };
    let answer = pintle_cri_api::ext_agent_client(channel).explain(request).await;
    let json = answer.map_err(|status| refusal(&status, endpoint))?.into_inner().json;
    let mut answer: serde_json::Value = serde_json::from_str(&json).context("read the agent's answer")?;
    let text = answer.as_object_mut().and_then(|fields| fields.remove("text"));
    let mut out = std::io::stdout().lock();
    match (args.output, text.as_ref().and_then(serde_json::Value::as_str)) {
        (Format::Text, Some(text)) => write!(out, "{text}")?,
        (Format::Text, None) | (Format::Json, _) => writeln!(out, "{answer:#}")?,
    }
    Ok(())
}

fn refusal(status: &tonic::Status, endpoint: &str) -> anyhow::Error {
    if status.code() == tonic::Code::Unimplemented {
        anyhow::anyhow!("no agent serves on {endpoint}: only `pintle agent` can explain pods")
    } else {
        anyhow::anyhow!("{}", status.message())
    }
}

fn parse(text: &str) -> Result<What, String> {
    match text.split_once('/') {
        None if text == "manifests" => Ok(What::Manifests),
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(What::Pod(name.to_owned())),
        Some(_) | None => Err(format!("{text:?} is neither pod/NAME nor manifests")),
    }
}
