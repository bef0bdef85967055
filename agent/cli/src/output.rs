//! JSON and YAML output in crictl's shape.
//!
//! In: messages. Out: text on stdout. Lists are the list message as protobuf JSON; `inspect` is
//! `{"status": …, <info entries>}` with times as RFC 3339 and info entries parsed where they are JSON.

use std::{collections::BTreeMap, io::Write};

use jiff::Timestamp;
use prost::Message;
use serde_json::{Map, Value};

use crate::{error::CliError, io::Io, protojson};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
    Yaml,
}

/// How a whole object is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TreeFormat {
    Json,
    Yaml,
}

/// How much of an id or a detail is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    Short,
    Full,
}

impl Ids {
    pub(crate) fn from_no_trunc(no_trunc: bool) -> Self {
        if no_trunc { Self::Full } else { Self::Short }
    }

    /// An id, or a digest without its algorithm, at crictl's length.
    pub(crate) fn show(self, id: &str) -> String {
        match self {
            Self::Full => id.to_owned(),
            Self::Short => id.strip_prefix("sha256:").unwrap_or(id).chars().take(13).collect(),
        }
    }
}

const TIMES: [&str; 3] = ["createdAt", "startedAt", "finishedAt"];

/// A message as JSON.
pub(crate) fn value(name: &str, message: &impl Message) -> Result<Value, CliError> {
    protojson::to_value(name, message)
        .map_err(|error| CliError::Answer { what: "print", reason: error.to_string() })
}

/// Writes JSON or YAML.
pub(crate) fn tree(io: &mut Io<'_>, format: TreeFormat, value: &Value) -> Result<(), CliError> {
    let odd = |reason: String| CliError::Answer { what: "print", reason };
    match format {
        TreeFormat::Json => {
            let text = serde_json::to_string_pretty(value).map_err(|error| odd(error.to_string()))?;
            writeln!(io.out, "{text}")?;
        }
        TreeFormat::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|error| odd(error.to_string()))?;
            writeln!(io.out, "{}", text.trim_end())?;
        }
    }
    Ok(())
}

/// One inspected object: its status with readable times, and the runtime's extra information beside it.
pub(crate) fn inspected(mut status: Value, info: BTreeMap<String, String>) -> Value {
    if let Some(fields) = status.as_object_mut() {
        readable_times(fields);
    }
    let mut object = Map::new();
    for (key, text) in info {
        let entry = serde_json::from_str(&text).unwrap_or(Value::String(text));
        object.insert(key, entry);
    }
    object.insert("status".to_owned(), status);
    Value::Object(object)
}

/// One object, or a list of them when several were asked for.
pub(crate) fn one_or_list(mut values: Vec<Value>) -> Value {
    match (values.pop(), values.is_empty()) {
        (Some(only), true) => only,
        (Some(last), false) => {
            values.push(last);
            Value::Array(values)
        }
        (None, _) => Value::Array(values),
    }
}

fn readable_times(fields: &mut Map<String, Value>) {
    for name in TIMES {
        let nanoseconds = fields.get(name).and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok());
        if let Some(nanoseconds) = nanoseconds {
            fields.insert(name.to_owned(), Value::String(rfc3339(nanoseconds)));
        }
    }
}

/// A time in nanoseconds since the epoch, as text.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Writes a titled map of a verbose listing.
pub(crate) fn details(io: &mut Io<'_>, title: &str, map: &BTreeMap<String, String>) -> Result<(), CliError> {
    if !map.is_empty() {
        writeln!(io.out, "{title}:")?;
        for (key, value) in map {
            writeln!(io.out, "\t{key} -> {value}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inspected_objects_carry_times_and_parsed_info() {
        let status = json!({"id": "a", "createdAt": "1700000000000000000", "exitCode": 0});
        let info = BTreeMap::from([
            ("info".to_owned(), r#"{"pid": 7}"#.to_owned()),
            ("note".to_owned(), "not json".to_owned()),
        ]);
        let value = inspected(status, info);
        assert_eq!(value["status"]["createdAt"], "2023-11-14T22:13:20Z");
        assert_eq!(value["info"]["pid"], 7);
        assert_eq!(value["note"], "not json");
    }

    #[test]
    fn one_object_is_not_wrapped_in_a_list() {
        assert_eq!(one_or_list(vec![json!(1)]), json!(1));
        assert_eq!(one_or_list(vec![json!(1), json!(2)]), json!([1, 2]));
    }

    #[test]
    fn ids_are_cut_to_thirteen_digits_without_the_algorithm() {
        assert_eq!(Ids::Short.show("sha256:0123456789abcdef"), "0123456789abc");
        assert_eq!(Ids::Short.show("abc"), "abc");
        assert_eq!(Ids::Full.show("sha256:0123456789abcdef"), "sha256:0123456789abcdef");
    }
}
