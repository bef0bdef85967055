//! `statsp`: what pods use.
//!
//! In: filters. Out: a table with the use of processors over a second, or the runtime's answer as JSON or YAML.

use pintle_cri_api::v1::{
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter,
};

use crate::{
    error::CliError,
    io::Io,
    output::{self, Ids},
    resolve,
    session::{Call, Session},
    size,
    table::Table,
    verbs::live::{self, LiveArgs},
};

#[derive(Debug, clap::Args)]
pub struct StatspArgs {
    /// Only this pod: its id, the beginning of its id, or its name
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// The same
    #[arg(long, value_name = "POD", conflicts_with = "pod")]
    id: Option<String>,
    #[command(flatten)]
    live: LiveArgs,
}

pub(crate) async fn run(args: StatspArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut filter = PodSandboxStatsFilter { label_selector: args.live.labels(), ..Default::default() };
    if let Some(wanted) = args.pod.as_ref().or(args.id.as_ref()) {
        filter.id = resolve::pod(wanted, &resolve::pods(session).await?)?.id.clone();
    }
    let list = async || {
        let mut client = session.runtime().await?;
        let request = ListPodSandboxStatsRequest { filter: Some(filter.clone()) };
        let call = Call::quick("list the statistics of pods");
        let mut answer = session.call(call, client.list_pod_sandbox_stats(request)).await?;
        answer.stats.sort_by(|a, b| id(a).cmp(id(b)));
        Ok(answer)
    };
    let value = |list: &_| output::value("runtime.v1.ListPodSandboxStatsResponse", list);
    live::run(&args.live, io, list, value, table).await
}

fn table(before: &ListPodSandboxStatsResponse, now: &ListPodSandboxStatsResponse) -> String {
    let mut table = Table::crictl(&["POD", "POD ID", "CPU %", "MEM", "RX", "TX"]);
    for stats in &now.stats {
        let earlier = before.stats.iter().find(|earlier| id(earlier) == id(stats)).and_then(processor);
        let metadata = stats.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
        let linux = stats.linux.as_ref();
        let memory = linux.and_then(|linux| linux.memory.as_ref()?.working_set_bytes);
        let interface = linux.and_then(|linux| linux.network.as_ref()?.default_interface.as_ref());
        let bytes = |value: Option<pintle_cri_api::v1::UInt64Value>| {
            value.map_or_else(|| "-".to_owned(), |value| size::human(value.value))
        };
        table.row(vec![
            metadata.map_or_else(String::new, |metadata| metadata.name.clone()),
            Ids::Short.show(id(stats)),
            live::processor_share(earlier, processor(stats)),
            bytes(memory),
            bytes(interface.and_then(|interface| interface.rx_bytes)),
            bytes(interface.and_then(|interface| interface.tx_bytes)),
        ]);
    }
    table.render()
}

fn id(stats: &PodSandboxStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| &attributes.id)
}

fn processor(stats: &PodSandboxStats) -> Option<(i64, u64)> {
    let cpu = stats.linux.as_ref()?.cpu.as_ref()?;
    Some((cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value))
}
