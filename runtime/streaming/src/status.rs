//! The last word on the error stream: how it ended.
//!
//! v4 and v5 of remotecommand send a `metav1.Status` in JSON, in which the exit code is the message of a cause; before
//! v4 there is only text, and nothing at all if it went well.

use serde_json::{Value, json};

use crate::backend::BackendError;
use crate::limits;

/// What the client is told in the end.
pub(crate) fn status(outcome: &Result<i32, BackendError>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": exit_text(*code),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => {
            let text = clip(&error.0);
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {text}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            })
        }
    }
}

/// The same before v4; empty if all went well.
pub(crate) fn text(outcome: &Result<i32, BackendError>) -> String {
    match outcome {
        Ok(0) => String::new(),
        Ok(code) => exit_text(*code),
        Err(error) => clip(&error.0).to_owned(),
    }
}

/// `text`, cut to what a client is told at the most.
pub(crate) fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(limits::MESSAGE_BYTES)).unwrap_or(text)
}

fn exit_text(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_the_message_of_a_cause() {
        let status = status(&Ok(3));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(text(&Ok(0)), "");
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let error = BackendError("ü".repeat(limits::MESSAGE_BYTES));
        assert!(text(&Err(error.clone())).len() <= limits::MESSAGE_BYTES);
        assert_eq!(status(&Err(error))["code"], 500);
    }
}
