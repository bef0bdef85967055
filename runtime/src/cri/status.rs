//! Turns the engine's errors into gRPC statuses, with the codes that a kubelet and crictl look at.
//!
//! In: an error. Out: a code and the whole chain of causes as text.

use tonic::{Code, Status};

use crate::Error;

/// The status for an error.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    Status::new(code(error), error.chain())
}

/// The status for an error of a call that is about one image: the caller knows what it asked for and of which image, and
/// is told the cause alone.
#[must_use]
pub fn to_image_status(error: &Error) -> Status {
    if let Error::Image { source, .. } = error {
        return Status::new(code(error), Error::causes(source));
    }
    to_status(error)
}

fn code(error: &Error) -> Code {
    match error {
        Error::InvalidArgument(_) => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::FailedPrecondition(_) | Error::Locked(_) => Code::FailedPrecondition,
        Error::Unimplemented(_) => Code::Unimplemented,
        Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
        Error::Image { source, .. } => image_code(source),
        Error::Supervisor { source, .. } => supervisor_code(source),
        Error::Several(errors) => errors.first().map_or(Code::Unknown, code),
        Error::Network { .. } | Error::Io { .. } | Error::Record { .. } | Error::Internal(_) => Code::Unknown,
    }
}

fn image_code(error: &pintle_image::Error) -> Code {
    use pintle_image::Error as E;
    if error.is_retryable() {
        return Code::Unavailable;
    }
    let codes = [
        (matches!(error, E::NotFound { .. }), Code::NotFound),
        (matches!(error, E::InvalidName { .. }), Code::InvalidArgument),
        (matches!(error, E::Unauthorized { .. }), Code::PermissionDenied),
        (matches!(error, E::InUse { .. } | E::Locked { .. }), Code::FailedPrecondition),
    ];
    codes.into_iter().find(|(fits, _)| *fits).map_or(Code::Unknown, |(_, code)| code)
}

fn supervisor_code(error: &crate::engine::supervisor_client::Error) -> Code {
    use crate::engine::supervisor_client::Error as E;
    match error {
        E::TimedOut(_) => Code::DeadlineExceeded,
        E::Connect { .. } | E::Unable(_) | E::Closed | E::Busy => Code::Unavailable,
        E::Send(_) | E::Refused(_) | E::Unexpected(_) => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_code_and_every_cause() {
        let source = pintle_image::Error::NotFound { what: "image x".to_owned() };
        let error = Error::Image { operation: "looking for image \"x\"".to_owned(), source };
        let status = to_status(&error);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "looking for image \"x\": image x not found");
    }

    #[test]
    fn a_call_about_an_image_is_answered_with_the_cause_alone() {
        let source = pintle_image::Error::NotFound { what: "image x".to_owned() };
        let error = Error::Image { operation: "pulling image \"x\"".to_owned(), source };
        let status = to_image_status(&error);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "image x not found"));
    }

    #[test]
    fn of_several_errors_the_first_gives_the_code() {
        let several = Error::Several(vec![
            Error::DeadlineExceeded("slow".to_owned()),
            Error::Internal("other".to_owned()),
        ]);
        let status = to_status(&several);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "slow; other");
    }
}
