//! A YAML or JSON document as a tree of values that know their place in the file.
//!
//! In: what [`super::yaml`] reads. Out: look-up of the place of a field, and the canonical text that is hashed.
//! Deliberately not `serde_json::Value`: that forgets lines, and the order of its maps depends on the features other
//! crates switch on.

use super::error::Position;
use super::path::{FieldPath, Step};

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// A value as YAML 1.1 resolves it, which is what Kubernetes uses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    /// The truth and how it was written (`yes`, `on`, `true`).
    Bool(bool, String),
    /// A whole number; also `1e3` and `2.0`.
    Integer(i64),
    /// Any other number, as it was written.
    Float(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: Position,
    pub(crate) node: Node,
}

impl Node {
    /// The value at a key of a map; absent if it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// The text at a key of a map.
    pub(crate) fn text_at(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            Value::Null
            | Value::Bool(..)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => None,
        }
    }

    /// A map's entries; none for anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null
            | Value::Bool(..)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => &[],
        }
    }

    /// A list's elements; none for anything else.
    pub(crate) fn elements(&self) -> &[Node] {
        match &self.value {
            Value::List(elements) => elements,
            Value::Null
            | Value::Bool(..)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => &[],
        }
    }

    /// Where the field is, or else the nearest thing above it.
    pub(crate) fn locate(&self, path: &FieldPath) -> Position {
        let mut node = self;
        let mut nearest = self.at;
        for step in path.steps() {
            let Some((at, below)) = node.step(step) else { break };
            nearest = at;
            node = below;
        }
        nearest
    }

    /// The value of a field.
    pub(crate) fn find(&self, path: &FieldPath) -> Option<&Node> {
        path.steps().iter().try_fold(self, |node, step| node.step(step).map(|(_, node)| node))
    }

    fn step(&self, step: &Step) -> Option<(Position, &Node)> {
        match step {
            Step::Field(name) | Step::Key(name) => {
                let entry = self.entries().iter().find(|entry| &entry.key == name)?;
                Some((entry.at, &entry.node))
            }
            Step::Index(index) => self.elements().get(*index).map(|element| (element.at, element)),
        }
    }

    /// JSON with sorted keys, no white space and without nulls: equal for manifests that say the same.
    pub(crate) fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out);
        out
    }

    fn write_canonical(&self, out: &mut String) {
        match &self.value {
            Value::Null => out.push_str("null"),
            Value::Bool(truth, _) => out.push_str(if *truth { "true" } else { "false" }),
            Value::Integer(number) => out.push_str(&number.to_string()),
            Value::Float(text) => out.push_str(text),
            Value::Text(text) => write_quoted(text, out),
            Value::List(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    element.write_canonical(out);
                }
                out.push(']');
            }
            Value::Map(entries) => write_map(entries, out),
        }
    }

    /// What the value is, for a message about its type.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing (null)".to_owned(),
            Value::Bool(truth, text) if text.as_str() == if *truth { "true" } else { "false" } => {
                format!("the boolean {truth}")
            }
            Value::Bool(truth, text) => format!("the boolean {truth} (unquoted `{text}`)"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Float(text) => format!("the number {text}"),
            Value::Text(text) => format!("the string {:?}", shorten(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "an object".to_owned(),
        }
    }
}

fn write_map(entries: &[Entry], out: &mut String) {
    let mut sorted: Vec<&Entry> = entries.iter().filter(|entry| entry.node.value != Value::Null).collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    out.push('{');
    for (at, entry) in sorted.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_quoted(&entry.key, out);
        out.push(':');
        entry.node.write_canonical(out);
    }
    out.push('}');
}

fn write_quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// At most 40 characters of a text that came from outside.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(39).collect();
    short.push('…');
    short
}
