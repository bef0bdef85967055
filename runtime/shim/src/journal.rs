//! The supervisor's own log: one line per event on standard error, which is `shim.log`.
//!
//! In: text. Out: a time-stamped line. No levels, no filter: the supervisor speaks only when something is wrong or when it
//! starts and ends.

use std::io::Write;

use crate::clock;

/// Writes a line. When even that fails there is nobody left to tell.
pub(crate) fn note(text: &str) {
    let mut line = Vec::with_capacity(text.len() + 40);
    clock::push_rfc3339(&mut line, clock::now());
    line.push(b' ');
    line.extend(text.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
    line.push(b'\n');
    std::io::stderr().write_all(&line).unwrap_or_default();
}

/// An error with all its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent wrappers repeat their source.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
