//! `ps`: lists containers.
//!
//! In: filters. Out: a table, ids, details, JSON or YAML, newest first; only running ones unless asked.

use std::io::Write;

use jiff::Timestamp;
use pintle_cri_api::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListContainersResponse,
};

use crate::{
    age,
    error::{CliError, Noun},
    filter,
    io::Io,
    output::{self, Ids},
    resolve::{POD_NAME, POD_NAMESPACE},
    session::{Call, Session},
    verbs::list::{self, ListArgs, Row},
};

#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Containers in every state, not only running ones
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
    /// Only containers of this image
    #[arg(long)]
    image: Option<String>,
    /// Only containers of the pod whose id begins so
    #[arg(short, long)]
    pod: Option<String>,
    /// Only containers in this state
    #[arg(short, long)]
    state: Option<State>,
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
    let mut containers = answer.containers;
    containers.retain(|container| {
        container.pod_sandbox_id.starts_with(args.pod.as_deref().unwrap_or_default())
            && image.as_ref().is_none_or(|image| uses(container, image))
    });
    list::print(list::select(containers, &args.list), &args.list, io)
}

fn request_filter(args: &PsArgs) -> ContainerFilter {
    let any = args.all || args.list.latest || args.list.last.is_some();
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
        label_selector: filter::selector(args.list.label.clone()),
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

fn uses(container: &Container, image_id: &str) -> bool {
    let named = container.image.as_ref().map_or("", |spec| spec.image.as_str());
    [container.image_id.as_str(), container.image_ref.as_str(), named].contains(&image_id)
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

impl Row for Container {
    type List = ListContainersResponse;
    const LIST: &str = "runtime.v1.ListContainersResponse";
    const HEADER: &[&str] =
        &["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"];

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.name)
    }

    fn namespace(&self) -> &str {
        label(self, POD_NAMESPACE)
    }

    fn created_at(&self) -> i64 {
        self.created_at
    }

    fn columns(&self, ids: Ids, now: Timestamp) -> Vec<String> {
        vec![
            ids.show(&self.id),
            image_name(self, ids),
            age::crictl(self.created_at, now),
            state_word(self).to_owned(),
            self.name().to_owned(),
            attempt(self).to_string(),
            ids.show(&self.pod_sandbox_id),
            label(self, POD_NAME).to_owned(),
            self.namespace().to_owned(),
        ]
    }

    fn verbose(&self, io: &mut Io<'_>) -> Result<(), CliError> {
        writeln!(io.out, "ID: {}\nPodID: {}", self.id, self.pod_sandbox_id)?;
        writeln!(io.out, "Namespace: {}\nName: {}", self.namespace(), self.name())?;
        writeln!(io.out, "Attempt: {}\nImage: {}", attempt(self), image_name(self, Ids::Full))?;
        writeln!(io.out, "State: {}", state_word(self))?;
        writeln!(io.out, "Created: {}", output::rfc3339(self.created_at))?;
        output::details(io, "Labels", &self.labels)?;
        output::details(io, "Annotations", &self.annotations)?;
        writeln!(io.out)?;
        Ok(())
    }

    fn list(containers: Vec<Self>) -> Self::List {
        ListContainersResponse { containers }
    }
}

fn attempt(container: &Container) -> u32 {
    container.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}
