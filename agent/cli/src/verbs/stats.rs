//! `stats`: what containers use.
//!
//! In: filters. Out: a table with the use of processors over a second, or the runtime's answer as JSON or YAML.

use pintle_cri_api::v1::{
    ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse, UInt64Value,
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
pub struct StatsArgs {
    /// Only this container: its id, the beginning of its id, or its name
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// The same
    #[arg(long, value_name = "CONTAINER", conflicts_with = "container")]
    id: Option<String>,
    /// Containers that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only containers of this pod
    #[arg(short, long, value_name = "POD")]
    pod: Option<String>,
    #[command(flatten)]
    live: LiveArgs,
}

pub(crate) async fn run(args: StatsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let filter = filter(&args, session).await?;
    let list = async || {
        let mut client = session.runtime().await?;
        let request = ListContainerStatsRequest { filter: Some(filter.clone()) };
        let call = Call::quick("list the statistics of containers");
        let mut answer = session.call(call, client.list_container_stats(request)).await?;
        answer.stats.sort_by(|a, b| id(a).cmp(id(b)));
        Ok(answer)
    };
    let value = |list: &_| output::value("runtime.v1.ListContainerStatsResponse", list);
    live::run(&args.live, io, list, value, |before, now| table(before, now, args.all)).await
}

async fn filter(args: &StatsArgs, session: &Session) -> Result<ContainerStatsFilter, CliError> {
    let mut filter = ContainerStatsFilter { label_selector: args.live.labels(), ..Default::default() };
    if let Some(wanted) = args.container.as_ref().or(args.id.as_ref()) {
        filter.id = resolve::container(wanted, &resolve::containers(session).await?)?.id.clone();
    }
    if let Some(wanted) = &args.pod {
        filter.pod_sandbox_id = resolve::pod(wanted, &resolve::pods(session).await?)?.id.clone();
    }
    Ok(filter)
}

fn table(before: &ListContainerStatsResponse, now: &ListContainerStatsResponse, all: bool) -> String {
    let mut table = Table::crictl(&["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES", "SWAP"]);
    for stats in &now.stats {
        let memory = number(stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref()));
        let (processor, layer) = (processor(stats), stats.writable_layer.as_ref());
        if !all && processor.is_none_or(|(_, used)| used == 0) && memory.is_none_or(|bytes| bytes == 0) {
            continue;
        }
        let earlier = before.stats.iter().find(|earlier| id(earlier) == id(stats)).and_then(self::processor);
        let attributes = stats.attributes.as_ref();
        let name = attributes.and_then(|a| a.metadata.as_ref()).map_or("", |metadata| &metadata.name);
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size::human);
        let inodes = number(layer.and_then(|layer| layer.inodes_used.as_ref()));
        table.row(vec![
            Ids::Short.show(id(stats)),
            name.to_owned(),
            live::processor_share(earlier, processor),
            bytes(memory),
            bytes(number(layer.and_then(|layer| layer.used_bytes.as_ref()))),
            inodes.map_or_else(|| "-".to_owned(), |inodes| inodes.to_string()),
            bytes(number(stats.swap.as_ref().and_then(|swap| swap.swap_usage_bytes.as_ref()))),
        ]);
    }
    table.render()
}

fn id(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |attributes| &attributes.id)
}

fn processor(stats: &ContainerStats) -> Option<(i64, u64)> {
    let cpu = stats.cpu.as_ref()?;
    Some((cpu.timestamp, number(cpu.usage_core_nano_seconds.as_ref())?))
}

fn number(value: Option<&UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}
