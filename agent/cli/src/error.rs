//! What can go wrong in a verb, and what the user should do next.
//!
//! In: failures of calls, files and arguments. Out: [`CliError`], whose [`CliError::report`] is the text to print.

use std::{fmt, io, path::PathBuf};

use pintle_cri_api::ConnectError;
use pintle_streaming::client::ClientError;
use tonic::Code;

/// What an id or a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    Pod,
    /// A pod of Kubernetes, whose sandbox may not be there.
    KubernetesPod,
    Container,
    /// Either, where one name may mean one or the other.
    ContainerOrPod,
    Image,
    /// An image in a registry.
    RemoteImage,
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod | Self::KubernetesPod => "pod",
            Self::Container => "container",
            Self::ContainerOrPod => "container or pod",
            Self::Image | Self::RemoteImage => "image",
        })
    }
}

impl Noun {
    fn listing(self) -> &'static str {
        match self {
            Self::Pod => "'pintle pods' lists the pods",
            Self::KubernetesPod => {
                "'pintle get pods -A' lists the pods, 'pintle explain manifests' what is wrong with manifests"
            }
            Self::Container => "'pintle ps -a' lists the containers",
            Self::ContainerOrPod => "'pintle ps -a' lists the containers and their pods",
            Self::Image => "'pintle images' lists the images",
            Self::RemoteImage => {
                "the registry has no such name or tag, or shows it only to those who log in: --creds"
            }
        }
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("cannot reach the runtime")]
    Connect(#[source] ConnectError),
    #[error("cannot {what}: {message}")]
    Call { what: String, message: String, code: Code, noun: Option<Noun> },
    #[error("cannot {what}")]
    Stream {
        what: String,
        #[source]
        source: ClientError,
    },
    #[error("cannot {what}: no answer from {endpoint} within {seconds} s")]
    TimedOut { what: String, endpoint: String, seconds: u64 },
    #[error("no {noun} {wanted:?}")]
    NotFound { noun: Noun, wanted: String },
    #[error("{wanted:?} could be any of these {noun}s:\n{}", candidates.join("\n"))]
    Ambiguous { noun: Noun, wanted: String, candidates: Vec<String> },
    #[error("pod {pod:?} has several containers: {}", containers.join(", "))]
    WhichContainer { pod: String, containers: Vec<String> },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the image store is damaged in {damages} places")]
    Damaged { damages: usize },
    #[error("{flag}: {reason}")]
    Argument { flag: &'static str, reason: String },
    #[error("the runtime at {endpoint} is not Pintle: it cannot {what}")]
    NotPintle { endpoint: String, what: &'static str },
    #[error("container {id} is running")]
    StillRunning { id: String },
    #[error("pod {id} is ready")]
    StillReady { id: String },
    #[error("container {id} has no log file")]
    NoLog { id: String, why: &'static str },
    #[error("the runtime's answer to {what} makes no sense: {reason}")]
    Answer { what: &'static str, reason: String },
    #[error("{}", reports(.0))]
    Several(Vec<CliError>),
    #[error("cannot write output")]
    Output(#[from] io::Error),
}

impl CliError {
    /// What to do next, when there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect(ConnectError::NoSocket { .. } | ConnectError::Refused { .. }) => {
                "is 'pintle agent' or 'pintle runtime' running? --runtime-endpoint names another socket"
            }
            Self::Connect(ConnectError::Denied { .. }) => "the socket belongs to root: use sudo",
            Self::NotFound { noun, .. } | Self::Call { code: Code::NotFound, noun: Some(noun), .. } => {
                noun.listing()
            }
            Self::Call {
                code: Code::PermissionDenied | Code::Unauthenticated,
                noun: Some(Noun::RemoteImage),
                ..
            } => "--creds USER:PASSWORD logs in at the registry",
            Self::Call { code: Code::Unknown, noun: Some(Noun::RemoteImage), message, .. }
                if message.starts_with("SignatureValidationFailed") =>
            {
                "the runtime's --image-signature-policy says which images may be pulled"
            }
            Self::Call { code, noun: Some(Noun::RemoteImage), message, .. }
                if *code == Code::Unavailable || message.starts_with("RegistryUnavailable") =>
            {
                "is the registry's name right, and is it up? mirrors and http are set in the runtime's --registry-config"
            }
            Self::Call { code: Code::Unavailable, .. } => "did the runtime stop? look at its log",
            Self::Call { code: Code::FailedPrecondition, noun: Some(Noun::Image), message, .. }
                if message.contains("in use") =>
            {
                "'pintle ps -a' shows the containers; the image can go when they are removed"
            }
            // A runtime that knows the call and refuses what is asked of it says so itself.
            Self::Call { code: Code::Unimplemented, message, .. } if unknown_call(message) => {
                "this runtime does not offer that call"
            }
            Self::TimedOut { .. } => "--timeout waits longer",
            Self::Ambiguous { .. } => "give more digits of the id, or the name as it is listed",
            Self::WhichContainer { .. } => "choose one with -c",
            Self::NotPintle { .. } => {
                "--runtime-endpoint unix:///run/pintle/pintle.sock is Pintle's own socket"
            }
            Self::StillRunning { .. } => "'pintle stop' it first, or use --force",
            Self::StillReady { .. } => "'pintle stopp' it first, or use --force",
            Self::NoLog { why, .. } => why,
            Self::Connect(_)
            | Self::Call { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Damaged { .. }
            | Self::Config { .. }
            | Self::Argument { .. }
            | Self::Answer { .. }
            | Self::Stream { .. }
            | Self::Several(_)
            | Self::Output(_) => return None,
        };
        Some(hint.to_owned())
    }

    /// The error, its causes and its hint, ready for stderr.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        match self.hint() {
            Some(hint) => format!("{text}\n  hint: {hint}"),
            None => text,
        }
    }

    /// Success, the only error, or all of them in one.
    pub(crate) fn collect(mut errors: Vec<Self>) -> Result<(), Self> {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }
}

/// Whether gRPC itself says that nobody answers this call.
fn unknown_call(message: &str) -> bool {
    message.is_empty() || message.contains("unknown service") || message.contains("unknown method")
}

fn reports(errors: &[CliError]) -> String {
    errors.iter().map(CliError::report).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_names_the_commands_that_make_one() {
        let source = ConnectError::NoSocket { path: "/x.sock".into() };
        let report = CliError::Connect(source).report();
        assert!(report.contains("no such socket /x.sock"), "{report}");
        assert!(report.contains("is 'pintle agent' or 'pintle runtime' running?"), "{report}");
    }

    #[test]
    fn an_unknown_container_points_to_the_list() {
        let error = CliError::NotFound { noun: Noun::Container, wanted: "web".into() };
        assert_eq!(error.report(), "no container \"web\"\n  hint: 'pintle ps -a' lists the containers");
    }

    #[test]
    fn a_field_that_is_not_supported_is_not_called_a_missing_call() {
        let refused = |message: &str| CliError::Call {
            what: "run the pod".into(),
            message: message.into(),
            code: Code::Unimplemented,
            noun: None,
        };
        assert_eq!(refused("sysctls: not supported yet").hint(), None);
        assert!(refused("unknown service runtime.v1.RuntimeService").hint().is_some());
    }

    #[test]
    fn a_pull_that_fails_points_to_the_registry_and_not_to_the_runtime() {
        for (code, hint) in [
            (Code::Unavailable, "registry"),
            (Code::NotFound, "registry"),
            (Code::PermissionDenied, "--creds"),
        ] {
            let (what, message) = ("pull x:1".into(), "it failed".into());
            let report = CliError::Call { what, message, code, noun: Some(Noun::RemoteImage) }
                .hint()
                .unwrap_or_default();
            assert!(report.contains(hint) && !report.contains("did the runtime stop"), "{report}");
        }
    }

    #[test]
    fn several_errors_are_told_one_per_line() {
        let missing = |name: &str| CliError::NotFound { noun: Noun::Pod, wanted: name.into() };
        let error = CliError::collect(vec![missing("a"), missing("b")]).unwrap_err();
        assert_eq!(error.to_string().lines().filter(|l| l.starts_with("no pod")).count(), 2);
        assert!(CliError::collect(Vec::new()).is_ok());
    }
}
