//! `get pods`: the node's pods as Kubernetes sees them, in kubectl's columns.
//!
//! In: a namespace, and the pod list of the agent behind the socket. Out: a table, JSON or YAML. A runtime without
//! an agent (containerd, `pintle runtime`) has no such list.

use std::io::Write;

use jiff::Timestamp;
use k8s_openapi::{List, api::core::v1::Pod};
use pintle_cri_api::ext::PodsRequest;
use serde_json::Value;

use crate::{
    error::{CliError, Noun},
    io::Io,
    output::{self, TreeFormat},
    pod_row::{self, PodRow},
    session::Session,
    table::Table,
};

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List pods
    #[command(visible_aliases = ["pod", "po"])]
    Pods(PodsArgs),
}

#[derive(Debug, clap::Args)]
struct PodsArgs {
    /// Only this pod
    name: Option<String>,
    /// Pods of this namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Wide,
    Json,
    Yaml,
}

pub(crate) async fn run(args: GetArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let What::Pods(args) = args.what;
    let namespace = if args.all_namespaces { String::new() } else { args.namespace.clone() };
    let request = PodsRequest { namespace, name: args.name.clone().unwrap_or_default() };
    let mut client = session.pintle_agent().await?;
    let answer = session.call_pintle("list Kubernetes pods", client.pods(request)).await?;
    match args.output {
        Format::Json => output::tree(io, TreeFormat::Json, &object(&args, &answer.json)?),
        Format::Yaml => output::tree(io, TreeFormat::Yaml, &object(&args, &answer.json)?),
        Format::Table | Format::Wide => {
            let list: List<Pod> = parse(&answer.json)?;
            print(io, &args, &list.items)
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, CliError> {
    serde_json::from_str(json)
        .map_err(|error| CliError::Answer { what: "list Kubernetes pods", reason: error.to_string() })
}

/// The list, or the one pod that was asked for, as kubectl prints it.
fn object(args: &PodsArgs, json: &str) -> Result<Value, CliError> {
    let mut list: Value = parse(json)?;
    let Some(name) = &args.name else { return Ok(list) };
    match list["items"].as_array_mut().map(std::mem::take).unwrap_or_default().into_iter().next() {
        Some(Value::Object(pod)) => {
            let mut whole: serde_json::Map<String, Value> =
                [("apiVersion".to_owned(), "v1".into()), ("kind".to_owned(), "Pod".into())]
                    .into_iter()
                    .collect();
            whole.extend(pod);
            Ok(Value::Object(whole))
        }
        Some(_) | None => Err(no_such_pod(name)),
    }
}

fn no_such_pod(name: &str) -> CliError {
    CliError::NotFound { noun: Noun::KubernetesPod, wanted: name.to_owned() }
}

fn print(io: &mut Io<'_>, args: &PodsArgs, pods: &[Pod]) -> Result<(), CliError> {
    if pods.is_empty() {
        match &args.name {
            Some(name) => return Err(no_such_pod(name)),
            None if args.all_namespaces => writeln!(io.err, "No resources found")?,
            None => writeln!(io.err, "No resources found in {} namespace.", args.namespace)?,
        }
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<PodRow> = pods.iter().map(|pod| pod_row::row(pod, now)).collect();
    let text = table(rows, args);
    let skipped = if args.no_headers { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
    io.out.write_all(&text.as_bytes()[skipped..])?;
    Ok(())
}

fn table(mut rows: Vec<PodRow>, args: &PodsArgs) -> String {
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let wide = args.output == Format::Wide;
    let mut header = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if args.all_namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    }
    let mut table = Table::kubectl(&header);
    for row in rows {
        let mut cells = vec![row.name, row.ready, row.status, row.restarts, row.age];
        if args.all_namespaces {
            cells.insert(0, row.namespace);
        }
        if wide {
            cells.extend([row.ip, row.node, row.nominated_node, row.readiness_gates]);
        }
        table.row(cells);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_row(namespace: &str, name: &str) -> PodRow {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name},
            "status": {"phase": "Running", "podIP": "10.0.0.2"},
        }))
        .unwrap();
        pod_row::row(&pod, Timestamp::UNIX_EPOCH)
    }

    fn args(all_namespaces: bool, output: Format) -> PodsArgs {
        PodsArgs { name: None, namespace: "default".into(), all_namespaces, no_headers: false, output }
    }

    #[test]
    fn the_columns_are_kubectls() {
        let text = table(vec![pod_row("default", "web")], &args(false, Format::Table));
        let expected =
            "NAME   READY   STATUS    RESTARTS   AGE\nweb    0/0     Running   0          <unknown>\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn one_pod_that_was_asked_for_is_no_list() {
        let one = PodsArgs { name: Some("web".into()), ..args(false, Format::Json) };
        let list = r#"{"kind":"PodList","items":[{"metadata":{"name":"web"}}]}"#;
        let pod = object(&one, list).unwrap();
        assert_eq!((&pod["kind"], &pod["metadata"]["name"]), (&"Pod".into(), &"web".into()));
        let told = object(&one, r#"{"kind":"PodList","items":[]}"#).unwrap_err().report();
        assert!(told.contains("pintle get pods -A"), "{told}");
        assert_eq!(object(&args(false, Format::Json), list).unwrap()["kind"], "PodList");
    }

    #[test]
    fn all_namespaces_come_first_and_wide_ones_last() {
        let text = table(vec![pod_row("b", "web"), pod_row("a", "db")], &args(true, Format::Wide));
        let header: Vec<&str> = text.lines().next().unwrap().split("   ").filter(|w| !w.is_empty()).collect();
        let expected = ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"];
        assert_eq!(header.iter().map(|w| w.trim()).take(8).collect::<Vec<_>>(), expected);
        assert!(text.lines().nth(1).unwrap().starts_with("a "));
    }
}
