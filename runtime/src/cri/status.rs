//! Turns the engine's errors into gRPC statuses, with the codes that a kubelet and crictl look at.
//!
//! In: an error. Out: a code and the whole chain of causes as text.

use pintle_shim_protocol::ErrorCode;
use tonic::{Code, Status};

use crate::Error;

/// The most bytes of an error's text: percent-encoded three times as many, which fits the 16 KiB of headers that every
/// client takes.
const MAX_TEXT: usize = 4096;

/// The status for an error.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    Status::new(code(error), shortened(error.chain()))
}

/// The status for an error of a call that is about one image: the caller knows what it asked for and of which image, and
/// is told the cause alone.
#[must_use]
pub fn to_image_status(error: &Error) -> Status {
    if let Error::Image { source, .. } = error {
        return Status::new(code(error), shortened(Error::causes(source)));
    }
    to_status(error)
}

/// The status for a pull that failed, in the words by which a kubelet tells what is to blame: it looks at how the text begins,
/// and only where the code says nothing.
#[must_use]
pub fn to_pull_status(error: &Error) -> Status {
    let Error::Image { source, .. } = error else { return to_status(error) };
    let blame = if matches!(source, pintle_image::Error::Refused { .. }) {
        "SignatureValidationFailed"
    } else if source.is_registry_unavailable() {
        "RegistryUnavailable"
    } else {
        return to_image_status(error);
    };
    Status::new(Code::Unknown, shortened(format!("{blame}: {}", Error::causes(source))))
}

/// Errors quote what was asked for, and a status travels as a header, which a client takes only up to some size: beyond
/// that the client would be told of a broken connection instead of the reason.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" …");
    }
    text
}

fn code(error: &Error) -> Code {
    match error {
        Error::InvalidArgument(_) => Code::InvalidArgument,
        Error::NotFound { .. } => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::FailedPrecondition(_) | Error::Locked(_) => Code::FailedPrecondition,
        Error::Unavailable(_) => Code::Unavailable,
        Error::ResourceExhausted(_) => Code::ResourceExhausted,
        Error::Unimplemented(_) => Code::Unimplemented,
        Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
        Error::Image { source, .. } => image_code(source),
        Error::Supervisor { source, .. } => supervisor_code(source),
        Error::Several(errors) => errors.first().map_or(Code::Unknown, code),
        Error::Network { source, .. } => network_code(source),
        Error::Io { .. } | Error::Record { .. } | Error::Internal(_) => Code::Unknown,
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

fn network_code(error: &pintle_cni::Error) -> Code {
    use pintle_cni::Error as E;
    let codes = [
        (matches!(error, E::NoAddressLeft { .. } | E::HostPortsFull { .. }), Code::ResourceExhausted),
        (matches!(error, E::HostPort { .. }), Code::InvalidArgument),
        (matches!(error, E::HostPortTaken { .. }), Code::FailedPrecondition),
    ];
    codes.into_iter().find(|(fits, _)| *fits).map_or(Code::Unknown, |(_, code)| code)
}

fn supervisor_code(error: &crate::engine::supervisor_client::Error) -> Code {
    use crate::engine::supervisor_client::Error as E;
    match error {
        E::TimedOut(_) => Code::DeadlineExceeded,
        E::Connect { .. } | E::Unable(_) | E::Closed | E::Busy => Code::Unavailable,
        // The container was in the right state when the engine looked, and no more when its supervisor did.
        E::Refused(failure) if failure.code == ErrorCode::WrongState => Code::FailedPrecondition,
        E::Refused(failure) if failure.code == ErrorCode::NotFound => Code::NotFound,
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
    fn a_container_that_ended_just_before_is_told_as_such() {
        let failure =
            pintle_shim_protocol::Failure { code: ErrorCode::WrongState, message: "it is over".to_owned() };
        let source = crate::engine::supervisor_client::Error::Refused(failure);
        let status = to_status(&Error::Supervisor { operation: "running a command", source });
        assert_eq!(status.code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_text_that_no_header_could_carry_is_cut_between_characters() {
        let status = to_status(&Error::NotFound { kind: "container", id: "ä".repeat(100_000) });
        assert!(status.message().len() < 4200 && status.message().ends_with('…'));
    }

    #[test]
    fn a_call_about_an_image_is_answered_with_the_cause_alone() {
        let source = pintle_image::Error::NotFound { what: "image x".to_owned() };
        let error = Error::Image { operation: "pulling image \"x\"".to_owned(), source };
        let status = to_image_status(&error);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "image x not found"));
    }

    #[test]
    fn a_kubelet_is_told_in_its_words_that_a_registry_or_a_signature_is_to_blame() {
        let pull = |source| to_pull_status(&Error::Image { operation: "pulling".to_owned(), source });
        let down = pull(pintle_image::Error::Registry {
            operation: "fetch".to_owned(),
            host: "h".to_owned(),
            status: 503,
            message: "no".to_owned(),
        });
        assert_eq!(down.code(), Code::Unknown);
        assert!(down.message().starts_with("RegistryUnavailable: fetch at h"), "{down}");
        let refused =
            pull(pintle_image::Error::Refused { image: "a".to_owned(), reason: "no signature".to_owned() });
        assert_eq!(refused.code(), Code::Unknown);
        assert!(
            refused.message().starts_with("SignatureValidationFailed: the signature policy"),
            "{refused}"
        );
        assert_eq!(pull(pintle_image::Error::NotFound { what: "x".to_owned() }).code(), Code::NotFound);
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
