//! What is wrong with a manifest: file, line, field, reason and what to do about it.
//!
//! In: findings of the reader, the field check and the validation. Out: one error value for a file that holds up to
//! [`MAX_ERRORS`] of them, in the order of the file's lines.

use std::fmt;

/// At most so many errors are reported of one file.
pub const MAX_ERRORS: usize = 20;

/// A place in a file. Both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ManifestError {
    /// The file's name as it was given to [`super::parse`].
    pub file: String,
    /// Where.
    pub position: Position,
    /// The path of the field, such as `spec.containers[0].image`; empty if it concerns a whole document or file.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl ManifestError {
    fn text(&self) -> String {
        let mut text = format!("{}:{}:{}: ", self.file, self.position.line, self.position.column);
        if !self.field.is_empty() {
            text.push_str(&self.field);
            text.push_str(": ");
        }
        text.push_str(&self.reason);
        if let Some(help) = &self.help {
            text.push_str("; ");
            text.push_str(help);
        }
        text
    }
}

/// Everything that is wrong with a file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors {
    /// The errors by line, at most [`MAX_ERRORS`].
    pub errors: Vec<ManifestError>,
    /// How many more there are.
    pub omitted: usize,
}

impl ManifestErrors {
    /// Takes all errors of a file and keeps the first by line.
    pub(crate) fn new(mut errors: Vec<ManifestError>) -> Self {
        errors.sort_by_key(|error| error.position);
        let omitted = errors.len().saturating_sub(MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        Self { errors, omitted }
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.omitted > 0 {
            write!(f, "\n… and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// An error before the file's name is put to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) position: Position,
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) help: Option<String>,
}

impl Finding {
    /// A finding that concerns no field in particular.
    pub(crate) fn at(position: Position, reason: impl Into<String>) -> Self {
        Self { position, field: String::new(), reason: reason.into(), help: None }
    }

    /// Says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says which field.
    pub(crate) fn field(mut self, field: &impl ToString) -> Self {
        self.field = field.to_string();
        self
    }

    /// Puts the file's name to it.
    pub(crate) fn in_file(self, file: &str) -> ManifestError {
        ManifestError {
            file: one_line(file),
            position: self.position,
            field: one_line(&self.field),
            reason: one_line(&self.reason),
            help: self.help.as_deref().map(one_line),
        }
    }
}

/// Names and values that somebody else chose stand in the texts: an error is one line all the same.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{Finding, Position};

    #[test]
    fn an_error_about_names_and_values_of_several_lines_is_one_line() {
        let finding =
            Finding::at(Position::START, "`a\nb` is none").field(&"spec.m\t\r").help("not `\u{85}`");
        let error = finding.in_file("web.yaml").to_string();
        assert_eq!(error, "web.yaml:1:1: spec.m\\t\\r: `a\\nb` is none; not `\\u{85}`");
    }
}
