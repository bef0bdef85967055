//! `ps`: lists containers.
//!
//! In: filters. Out: a table, ids, details, JSON or YAML, newest first; only running ones unless asked.

use std::io::Write;

use jiff::Timestamp;
use pintle_cri_api::v1::{
    Container, ContainerFilter, ContainerMetadata, ContainerState, ContainerStateValue, ImageSpec,
    ImageStatusRequest, ListContainersRequest, ListContainersResponse,
};
use regex::Regex;

use crate::{
    age,
    error::{CliError, Noun},
    filter::{self, Latest},
    io::Io,
    output::{self, Ids, ListFormat, TreeFormat},
    resolve::{POD_NAME, POD_NAMESPACE},
    session::{Call, Session},
    table::Table,
};

#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Containers in every state, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Only the container whose id begins so
    #[arg(long)]
    id: Option<String>,
    /// Only containers of this image
    #[arg(long)]
    image: Option<String>,
    /// Only containers whose name matches this regular expression
    #[arg(long)]
    name: Option<Regex>,
    /// Only containers whose pod's namespace matches this regular expression
    #[arg(long)]
    namespace: Option<Regex>,
    /// Only containers of the pod whose id begins so
    #[arg(short, long)]
    pod: Option<String>,
    /// Only containers in this state
    #[arg(short, long)]
    state: Option<State>,
    /// Only containers with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter::label)]
    label: Vec<(String, String)>,
    /// Only the newest container, in any state
    #[arg(short, long)]
    latest: bool,
    /// Only the newest N containers, in any state
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Labels and annotations too
    #[arg(short, long)]
    verbose: bool,
    #[arg(short, long, default_value = "table")]
    output: ListFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

pub(crate) async fn run(args: PsArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.runtime().await?;
    let request = ListContainersRequest { filter: Some(request_filter(&args)) };
    let answer = session.call(Call::quick("list containers"), client.list_containers(request)).await?;
    let image = match &args.image {
        Some(image) => Some(image_id(session, image).await?),
        None => None,
    };
    let containers = select(answer.containers, &args, image.as_deref());
    match args.output {
        ListFormat::Table if args.quiet => {
            for container in &containers {
                writeln!(io.out, "{}", container.id)?;
            }
            Ok(())
        }
        ListFormat::Table if args.verbose => containers.iter().try_for_each(|one| verbose(io, one)),
        ListFormat::Table => Ok(io.out.write_all(table(&containers, &args, Timestamp::now()).as_bytes())?),
        ListFormat::Json => tree(io, TreeFormat::Json, containers),
        ListFormat::Yaml => tree(io, TreeFormat::Yaml, containers),
    }
}

fn request_filter(args: &PsArgs) -> ContainerFilter {
    let any = args.all || args.latest || args.last.is_some();
    let state = match args.state {
        Some(State::Created) => Some(ContainerState::ContainerCreated),
        Some(State::Running) => Some(ContainerState::ContainerRunning),
        Some(State::Exited) => Some(ContainerState::ContainerExited),
        Some(State::Unknown) => Some(ContainerState::ContainerUnknown),
        None if any => None,
        None => Some(ContainerState::ContainerRunning),
    };
    ContainerFilter {
        state: state.map(|state| ContainerStateValue { state: state.into() }),
        label_selector: filter::selector(args.label.clone()),
        ..ContainerFilter::default()
    }
}

/// The id of an image that may be named in any way the runtime knows.
async fn image_id(session: &Session, image: &str) -> Result<String, CliError> {
    let mut client = session.images().await?;
    let spec = ImageSpec { image: image.to_owned(), ..ImageSpec::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: false };
    let call = Call::quick(format!("look up image {image}")).on(Noun::Image);
    let answer = session.call(call, client.image_status(request)).await?;
    let found =
        answer.image.ok_or_else(|| CliError::NotFound { noun: Noun::Image, wanted: image.to_owned() })?;
    Ok(found.id)
}

fn select(mut containers: Vec<Container>, args: &PsArgs, image: Option<&str>) -> Vec<Container> {
    containers.retain(|container| {
        container.id.starts_with(args.id.as_deref().unwrap_or_default())
            && container.pod_sandbox_id.starts_with(args.pod.as_deref().unwrap_or_default())
            && filter::matches(args.name.as_ref(), &metadata(container).name)
            && filter::matches(args.namespace.as_ref(), label(container, POD_NAMESPACE))
            && image.is_none_or(|image| uses(container, image))
    });
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    if let Some(count) = filter::newest(Latest::from(args.latest), args.last) {
        containers.truncate(count);
    }
    containers
}

fn uses(container: &Container, image_id: &str) -> bool {
    let named = container.image.as_ref().map_or("", |spec| spec.image.as_str());
    [container.image_id.as_str(), container.image_ref.as_str(), named].contains(&image_id)
}

fn metadata(container: &Container) -> ContainerMetadata {
    container.metadata.clone().unwrap_or_default()
}

fn label<'a>(container: &'a Container, key: &str) -> &'a str {
    container.labels.get(key).map_or("unknown", String::as_str)
}

fn state_word(container: &Container) -> &'static str {
    match container.state() {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

/// What the user called the image, when the runtime kept it.
fn image_name(container: &Container, ids: Ids) -> String {
    let Some(spec) = &container.image else { return String::new() };
    let name = if spec.user_specified_image.is_empty() { &spec.image } else { &spec.user_specified_image };
    if name.starts_with("sha256:") { ids.show(name) } else { name.clone() }
}

const HEADER: [&str; 9] =
    ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];

fn table(containers: &[Container], args: &PsArgs, now: Timestamp) -> String {
    let ids = Ids::from_no_trunc(args.no_trunc);
    let mut table = Table::crictl(&HEADER);
    for container in containers {
        let metadata = metadata(container);
        table.row(vec![
            ids.show(&container.id),
            image_name(container, ids),
            age::crictl(container.created_at, now),
            state_word(container).to_owned(),
            metadata.name,
            metadata.attempt.to_string(),
            ids.show(&container.pod_sandbox_id),
            label(container, POD_NAME).to_owned(),
            label(container, POD_NAMESPACE).to_owned(),
        ]);
    }
    table.render()
}

fn verbose(io: &mut Io<'_>, container: &Container) -> Result<(), CliError> {
    let metadata = metadata(container);
    writeln!(io.out, "ID: {}\nPodID: {}", container.id, container.pod_sandbox_id)?;
    writeln!(io.out, "Namespace: {}\nName: {}", label(container, POD_NAMESPACE), metadata.name)?;
    writeln!(io.out, "Attempt: {}\nImage: {}", metadata.attempt, image_name(container, Ids::Full))?;
    writeln!(io.out, "State: {}", state_word(container))?;
    writeln!(io.out, "Created: {}", output::rfc3339(container.created_at))?;
    output::details(io, "Labels", &container.labels)?;
    output::details(io, "Annotations", &container.annotations)?;
    writeln!(io.out)?;
    Ok(())
}

fn tree(io: &mut Io<'_>, format: TreeFormat, containers: Vec<Container>) -> Result<(), CliError> {
    let list = ListContainersResponse { containers };
    output::tree(io, format, &output::value("runtime.v1.ListContainersResponse", &list)?)
}
