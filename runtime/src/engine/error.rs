//! What can go wrong in the engine, by what the caller can do about it.
//!
//! In: failures of the parts. Out: [`Error`], which `cri` turns into a gRPC status; [`Error::chain`] is the text with
//! all its causes. It logs nothing.

use std::{io, path::PathBuf};

use super::supervisor_client;

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request can never work.
    #[error("{0}")]
    InvalidArgument(String),
    /// There is no such thing.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// The id or name asked for.
        id: String,
    },
    /// There is such a thing already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The thing is not in a state in which this can be done.
    #[error("{0}")]
    FailedPrecondition(String),
    /// Not now, though nothing is wrong with the request.
    #[error("{0}")]
    Unavailable(String),
    /// There are as many as there may be.
    #[error("{0}")]
    ResourceExhausted(String),
    /// Not built yet.
    #[error("{0}")]
    Unimplemented(String),
    /// It took too long.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// Another engine runs on this state directory.
    #[error("another pintle uses the state directory {}", .0.display())]
    Locked(PathBuf),
    /// The supervisor refused, or could not be reached.
    #[error("{operation}")]
    Supervisor {
        /// What was asked of it.
        operation: &'static str,
        /// Why not.
        #[source]
        source: supervisor_client::Error,
    },
    /// The image store failed.
    #[error("{operation}")]
    Image {
        /// What was asked of it.
        operation: String,
        /// Why not.
        #[source]
        source: pintle_image::Error,
    },
    /// The pod network failed.
    #[error("{operation}")]
    Network {
        /// What was asked of it.
        operation: String,
        /// Why not.
        #[source]
        source: pintle_cni::Error,
    },
    /// A file or system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A record on disk cannot be understood.
    #[error("record {} cannot be read: {reason}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Several things failed; the rest was done.
    #[error("{}", .0.iter().map(Error::chain).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A fault of the engine itself.
    #[error("{0}")]
    Internal(String),
}

pub use EngineError as Error;

impl EngineError {
    /// For `map_err`: a failed system call with the path it was about.
    pub fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source: source.into() }
    }

    /// For `map_err`: a request that a supervisor did not carry out.
    pub(crate) fn supervisor(operation: &'static str) -> impl FnOnce(supervisor_client::Error) -> Self {
        move |source| Self::Supervisor { operation, source }
    }

    /// For `map_err`: a failure of the image store.
    pub(crate) fn image(operation: impl Into<String>) -> impl FnOnce(pintle_image::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Image { operation, source }
    }

    /// For `map_err`: a failure of the pod network.
    pub(crate) fn network(operation: impl Into<String>) -> impl FnOnce(pintle_cni::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Network { operation, source }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Image { source, .. } => source.is_retryable(),
            Self::Network { source, .. } => source.is_retryable(),
            Self::DeadlineExceeded(_)
            | Self::Unavailable(_)
            | Self::ResourceExhausted(_)
            | Self::Supervisor { .. }
            | Self::Several(_)
            | Self::Internal(_) => true,
            Self::InvalidArgument(_)
            | Self::NotFound { .. }
            | Self::AlreadyExists(_)
            | Self::FailedPrecondition(_)
            | Self::Unimplemented(_)
            | Self::Locked(_)
            | Self::Io { .. }
            | Self::Record { .. } => false,
        }
    }

    /// The text with every cause, joined by colons.
    #[must_use]
    pub fn chain(&self) -> String {
        Self::causes(self)
    }

    /// The same of any error.
    pub(crate) fn causes(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<crate::spec::Error> for Error {
    fn from(error: crate::spec::Error) -> Self {
        match error {
            crate::spec::Error::Invalid { .. } => Self::InvalidArgument(error.to_string()),
            crate::spec::Error::Unsupported { .. } => Self::Unimplemented(error.to_string()),
        }
    }
}

/// Collects the failures of a teardown that goes on after each of them.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Error>);

impl Failures {
    /// Remembers a failure.
    pub(crate) fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(error);
                None
            }
        }
    }

    /// All of them as one, if there were any.
    pub(crate) fn into_result(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => self.0.pop().map_or(Ok(()), Err),
            _ => Err(Error::Several(self.0)),
        }
    }
}
