//! Turns a [`Node`] into an API type and finds every field that would get lost or has the wrong type.
//!
//! In: a document's tree. Out: the typed object and findings. It is a serde deserializer: the generated API types hand
//! their complete list of field names to `deserialize_struct`, so that what is unknown is known exactly, at every
//! depth, without a second description of the API. A value of the wrong type is reported and read as its type's
//! default, so that one pass finds everything.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor, value,
};

use super::error::Finding;
use super::node::{Entry, Node, Value, shorten};
use super::path::FieldPath;
use super::supported::{Support, support, supported_below};

/// So many findings of one object are collected; what comes after them is not counted.
pub(crate) const MAX_ISSUES: usize = 1000;
/// A misspelt name is compared with at most so many that are known.
const MAX_COMPARED: usize = 128;

/// A finding with the path it is about.
#[derive(Debug, Clone)]
pub(crate) struct Issue {
    pub(crate) path: FieldPath,
    pub(crate) finding: Finding,
}

/// Reads a document as `T`. Without findings there is a value; with findings there usually is one, too.
pub(crate) fn read<T: DeserializeOwned>(node: &Node) -> (Option<T>, Vec<Issue>) {
    let issues = RefCell::new(Vec::new());
    let reader = Reader { node, path: FieldPath::root(), issues: &issues };
    let value = T::deserialize(reader).ok();
    (value, issues.into_inner())
}

/// Why the typed object could not be made. The reason is among the issues already.
#[derive(Debug)]
struct Stop {
    message: String,
    reported: bool,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), reported: false }
    }
}

struct Reader<'a> {
    node: &'a Node,
    path: FieldPath,
    issues: &'a RefCell<Vec<Issue>>,
}

impl<'a> Reader<'a> {
    fn report(&self, finding: Finding) {
        let finding = finding.field(&self.path);
        self.push(Issue { path: self.path.clone(), finding });
    }

    fn push(&self, issue: Issue) {
        let mut issues = self.issues.borrow_mut();
        if issues.len() < MAX_ISSUES {
            issues.push(issue);
        }
    }

    fn report_type(&self, wanted: &str) {
        let finding = Finding::at(self.node.at, format!("must be {wanted}, not {}", self.node.describe()));
        let finding = match (&self.node.value, wanted) {
            (Value::Bool(_, text) | Value::Float(text), "a string") => {
                finding.help(format!("quote it: \"{text}\""))
            }
            (Value::Integer(number), "a string") => finding.help(format!("quote it: \"{number}\"")),
            (Value::Text(text), "a list") => {
                finding.help(format!("write it as a list: [{:?}]", shorten(text)))
            }
            (Value::Text(text), "a whole number") if text.parse::<i64>().is_ok() => {
                finding.help("remove the quotes")
            }
            (Value::Text(text), "true or false") if text == "true" || text == "false" => {
                finding.help("remove the quotes")
            }
            _ => finding,
        };
        self.report(finding);
    }

    /// Reports what a visitor itself refuses, once.
    fn seal<T>(&self, result: Result<T, Stop>) -> Result<T, Stop> {
        result.map_err(|stop| {
            if !stop.reported {
                self.report(Finding::at(self.node.at, stop.message.clone()));
            }
            Stop { reported: true, ..stop }
        })
    }

    fn integer<V: Visitor<'a>>(
        self,
        visitor: V,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<V::Value, Stop> {
        let number = match &self.node.value {
            Value::Integer(number) if range.contains(number) => *number,
            Value::Integer(_) => {
                self.report_type(&format!("a number from {} to {}", range.start(), range.end()));
                0
            }
            Value::Null
            | Value::Bool(..)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => {
                self.report_type("a whole number");
                0
            }
        };
        self.seal(visitor.visit_i64(number))
    }

    /// Whether a field may have this value; reports it if not.
    fn accepts(&self, known: &[&str], entry: &Entry) -> bool {
        let path = self.path.field(&entry.key);
        let issue = |finding: Finding| Issue { path: path.clone(), finding: finding.field(&path) };
        if !known.contains(&entry.key.as_str()) {
            let reason = format!("unknown field{}", in_kind(&self.path));
            let mut finding = Finding::at(entry.at, reason);
            if self.issues.borrow().len() < MAX_ISSUES
                && let Some(near) = nearest(&entry.key, known)
            {
                finding = finding.help(format!("did you mean `{near}`?"));
            }
            self.push(issue(finding));
            return false;
        }
        let unsupported = Finding::at(entry.at, "not supported yet");
        let refusal = match support(&path.pattern()) {
            Some(Support::Yes) => return true,
            _ if says_nothing(&entry.node) => return false,
            Some(Support::Only(values)) if values.contains(&entry.node.canonical().as_str()) => return true,
            Some(Support::Empty(_)) if entry.node.canonical() == "{}" => return true,
            Some(Support::Empty(why)) => unsupported.help(why),
            Some(Support::Only(values)) if values != ["{}"] => {
                let value = shorten(&entry.node.canonical());
                Finding::at(entry.at, format!("the value {value} is not supported yet"))
                    .help(format!("supported: {}", values.join(", ")))
            }
            Some(Support::Only(_)) | None => unsupported.help(self.supported_here()),
        };
        self.push(issue(refusal));
        false
    }
}

impl Reader<'_> {
    fn supported_here(&self) -> String {
        let fields = supported_below(&self.path.pattern()).join(", ");
        if self.path.steps().is_empty() {
            format!("supported in a pod: {fields}")
        } else {
            format!("supported in `{}`: {fields}", self.path)
        }
    }
}

fn in_kind(parent: &FieldPath) -> &'static str {
    if parent.steps().is_empty() { " of a Pod" } else { "" }
}

/// A value that the API server takes for not being there.
fn says_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Text(text) => text.is_empty(),
        Value::List(elements) => elements.is_empty(),
        Value::Bool(..) | Value::Integer(_) | Value::Float(_) | Value::Map(_) => false,
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
            self.integer(visitor, i64::from(<$type>::MIN)..=i64::from(<$type>::MAX))
        })*
    };
}

impl<'a> Deserializer<'a> for Reader<'a> {
    type Error = Stop;

    integers!(deserialize_i8: i8, deserialize_i16: i16, deserialize_i32: i32, deserialize_i64: i64);
    integers!(deserialize_u8: u8, deserialize_u16: u16, deserialize_u32: u32);

    fn deserialize_u64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.integer(visitor, 0..=i64::MAX)
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        let truth = if let Value::Bool(truth, _) = &self.node.value {
            *truth
        } else {
            self.report_type("true or false");
            false
        };
        self.seal(visitor.visit_bool(truth))
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        let text = if let Value::Text(text) = &self.node.value {
            text.as_str()
        } else {
            self.report_type("a string");
            ""
        };
        self.seal(visitor.visit_str(text))
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_string(visitor)
    }

    fn deserialize_char<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        if self.node.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        if !matches!(self.node.value, Value::List(_)) {
            self.report_type("a list");
        }
        let elements = Elements { reader: &self, next: 0 };
        visitor.visit_seq(elements)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        if !matches!(self.node.value, Value::Map(_)) {
            self.report_type("an object");
        }
        let entries: Vec<&Entry> = self.node.entries().iter().collect();
        visitor.visit_map(Entries {
            reader: &self,
            entries: entries.into_iter(),
            current: None,
            keys: Keys::Users,
        })
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if !matches!(self.node.value, Value::Map(_)) {
            self.report_type("an object");
        }
        let entries: Vec<&Entry> =
            self.node.entries().iter().filter(|entry| self.accepts(fields, entry)).collect();
        visitor.visit_map(Entries {
            reader: &self,
            entries: entries.into_iter(),
            current: None,
            keys: Keys::Api,
        })
    }

    /// Quantities and other values that may be a number or a text.
    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        let result = match &self.node.value {
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Text(text) | Value::Float(text) => visitor.visit_str(text),
            Value::Null | Value::Bool(..) | Value::List(_) | Value::Map(_) => {
                self.report_type("a string or a number");
                visitor.visit_i64(0)
            }
        };
        self.seal(result)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct enum
    }
}

struct Elements<'r, 'a> {
    reader: &'r Reader<'a>,
    next: usize,
}

impl<'a> SeqAccess<'a> for Elements<'_, 'a> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let Some(node) = self.reader.node.elements().get(self.next) else { return Ok(None) };
        let path = self.reader.path.index(self.next);
        self.next += 1;
        seed.deserialize(Reader { node, path, issues: self.reader.issues }).map(Some)
    }
}

/// Who chose the keys of a map.
#[derive(Clone, Copy)]
enum Keys {
    /// The API: they are fields.
    Api,
    /// The user.
    Users,
}

struct Entries<'r, 'a> {
    reader: &'r Reader<'a>,
    entries: std::vec::IntoIter<&'a Entry>,
    current: Option<&'a Entry>,
    keys: Keys,
}

impl<'a> MapAccess<'a> for Entries<'_, 'a> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: value::StrDeserializer<'_, Stop> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let Some(entry) = self.current.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its key"));
        };
        let path = match self.keys {
            Keys::Api => self.reader.path.field(&entry.key),
            Keys::Users => self.reader.path.key(&entry.key),
        };
        seed.deserialize(Reader { node: &entry.node, path, issues: self.reader.issues })
    }
}

/// The known name that a mistyped one was probably meant to be.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .take(MAX_COMPARED)
        .map(|name| (distance(&lower, &name.to_lowercase()), *name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_a_stranger_is_not() {
        let known = ["containers", "initContainers", "volumes", "hostname", "hostNetwork", "name"];
        assert_eq!(nearest("containerz", &known), Some("containers"));
        assert_eq!(nearest("Containers", &known), Some("containers"));
        assert_eq!(nearest("volume", &known), Some("volumes"));
        assert_eq!(nearest("hostnetwrok", &known), Some("hostNetwork"));
        assert_eq!(nearest("naem", &known), Some("name"));
        assert_eq!(nearest("replicas", &known), None);
    }
}
