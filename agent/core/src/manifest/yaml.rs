//! Reads the documents of a YAML or JSON file into trees that know their lines.
//!
//! In: bytes from outside. Out: one [`Node`] a document, or the first thing that is wrong. JSON is read as the YAML
//! that it nearly is. Everything is bounded: bytes, documents, depth, and the number of values that aliases unfold to.

use std::collections::BTreeMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::error::{Finding, Position};
use super::node::{Entry, Node, Value, shorten};
use super::scalar::{resolve_number, resolve_plain};

/// The largest file that is read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// The most documents (and elements of lists of objects) in a file.
pub const MAX_DOCUMENTS: usize = 256;
/// The most values in a file, counted after aliases are unfolded; a long text counts as several.
pub const MAX_VALUES: usize = 65_536;

/// Reads every document that has content.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Node>, Finding> {
    let text = decode(bytes)?;
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut loader = Loader {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: BTreeMap::new(),
        budget: MAX_VALUES,
    };
    loader.documents()
}

fn decode(bytes: &[u8]) -> Result<&str, Finding> {
    if bytes.len() > MAX_BYTES {
        let reason = format!("the file has {} bytes; a manifest may have up to {MAX_BYTES}", bytes.len());
        return Err(Finding::at(Position::START, reason));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.split(|byte| *byte == b'\n').count().saturating_sub(1);
        Finding::at(Position { line, column: 1 }, "the text is not UTF-8")
    })
}

type Spanned<'a> = (Event<'a>, Span);

struct Loader<'a, P: Iterator<Item = Result<Spanned<'a>, granit_parser::ScanError>>> {
    parser: P,
    anchors: BTreeMap<usize, Anchored>,
    budget: usize,
}

/// A value that aliases may repeat.
struct Anchored {
    node: Node,
    weight: usize,
    height: usize,
}

impl<'a, P: Iterator<Item = Result<Spanned<'a>, granit_parser::ScanError>>> Loader<'a, P> {
    fn documents(&mut self) -> Result<Vec<Node>, Finding> {
        let mut documents = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::StreamEnd) {
                return Ok(documents);
            }
            if !matches!(event, Event::DocumentStart(..)) {
                // The start of the stream and the ends of documents.
                continue;
            }
            self.anchors.clear();
            let (event, content) = self.next()?;
            let node = self.value(event, content, 0)?;
            if node.value != Value::Null {
                documents.push(node);
            }
            if documents.len() > MAX_DOCUMENTS {
                let reason = format!("the file has more than {MAX_DOCUMENTS} documents");
                return Err(Finding::at(position(span.start), reason));
            }
        }
    }

    fn next(&mut self) -> Result<Spanned<'a>, Finding> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                Err(Finding::at(position(*error.marker()), format!("not valid YAML: {}", error.info())))
            }
            None => Err(Finding::at(Position::START, "the YAML parser ended before the text")),
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Finding> {
        let at = position(span.start);
        if depth > MAX_DEPTH {
            return Err(Finding::at(at, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let before = self.budget;
        let (value, anchor) = if let Event::Alias(id) = event {
            return self.unfold(id, at, depth);
        } else if let Event::Scalar(text, style, anchor, tag) = event {
            self.spend(1 + text.len() / 64, at)?;
            (scalar(&text, style, tag.as_deref(), at)?, anchor)
        } else if let Event::SequenceStart(_, anchor, _) = event {
            self.spend(1, at)?;
            (self.list(depth)?, anchor)
        } else if let Event::MappingStart(_, anchor, _) = event {
            self.spend(1, at)?;
            (self.map(depth)?, anchor)
        } else {
            return Err(Finding::at(at, "not valid YAML: a value is missing"));
        };
        let node = Node { at, value };
        if anchor != 0 {
            let height = node.height();
            let weight = before - self.budget;
            self.anchors.insert(anchor, Anchored { node: node.clone(), weight, height });
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Finding> {
        let mut elements = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::List(elements));
            }
            elements.push(self.value(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Finding> {
        let mut entries: BTreeMap<String, usize> = BTreeMap::new();
        let mut ordered: Vec<Entry> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let at = position(span.start);
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text.as_ref() == "<<");
            let key = key_text(&self.value(event, span, depth + 1)?)?;
            let (event, span) = self.next()?;
            let node = self.value(event, span, depth + 1)?;
            if is_merge {
                merged.push(node);
                continue;
            }
            if let Some(first) = entries.insert(key.clone(), ordered.len()) {
                let line = ordered.get(first).map_or(at.line, |entry| entry.at.line);
                let reason = format!("is already set in line {line}");
                return Err(Finding::at(at, reason).field(&shorten(&key)));
            }
            ordered.push(Entry { key, at, node });
        }
        for node in merged {
            self.merge(&mut entries, &mut ordered, node)?;
        }
        Ok(Value::Map(ordered))
    }

    /// `<<: *base`: keys of the base that are not set yet.
    fn merge(
        &mut self,
        entries: &mut BTreeMap<String, usize>,
        ordered: &mut Vec<Entry>,
        base: Node,
    ) -> Result<(), Finding> {
        match base.value {
            Value::Map(additions) => {
                for entry in additions {
                    if !entries.contains_key(&entry.key) {
                        entries.insert(entry.key.clone(), ordered.len());
                        ordered.push(entry);
                    }
                }
                Ok(())
            }
            Value::List(bases) if bases.iter().all(|base| matches!(base.value, Value::Map(_))) => {
                bases.into_iter().try_for_each(|base| self.merge(entries, ordered, base))
            }
            Value::List(_)
            | Value::Null
            | Value::Bool(..)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_) => Err(Finding::at(base.at, "`<<` takes an object or a list of objects")),
        }
    }

    fn unfold(&mut self, id: usize, at: Position, depth: usize) -> Result<Node, Finding> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(Finding::at(at, "the alias stands inside the value that it repeats"));
        };
        let (weight, height) = (anchored.weight, anchored.height);
        if depth + height > MAX_DEPTH {
            return Err(Finding::at(at, format!("nested more than {MAX_DEPTH} levels deep by aliases")));
        }
        self.spend(weight, at)?;
        let anchored = self.anchors.get(&id).map(|anchored| anchored.node.value.clone());
        Ok(Node { at, value: anchored.unwrap_or(Value::Null) })
    }

    fn spend(&mut self, weight: usize, at: Position) -> Result<(), Finding> {
        match self.budget.checked_sub(weight) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(Finding::at(at, format!("the file unfolds to more than {MAX_VALUES} values"))),
        }
    }
}

impl Node {
    fn height(&self) -> usize {
        let below = match &self.value {
            Value::List(elements) => elements.iter().map(Node::height).max(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.height()).max(),
            Value::Null | Value::Bool(..) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => None,
        };
        below.map_or(0, |below| below + 1)
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Value, Finding> {
    if text.contains('\0') {
        return Err(Finding::at(at, "the text contains a NUL character"));
    }
    let tag_name = tag.map(ToString::to_string);
    let name = tag_name.as_deref().unwrap_or_default();
    match name.strip_prefix("tag:yaml.org,2002:").or(name.strip_prefix("!!")).unwrap_or(name) {
        "" if style == ScalarStyle::Plain => Ok(resolve_plain(text)),
        "" | "!" | "str" => Ok(Value::Text(text.to_owned())),
        "int" | "float" => resolve_number(text)
            .ok_or_else(|| Finding::at(at, format!("`{}` is not a number", shorten(text)))),
        "bool" | "null" => Ok(resolve_plain(text)),
        other => Err(Finding::at(at, format!("the tag `{}` has no meaning in a manifest", shorten(other)))),
    }
}

/// The text of a key. Kubernetes turns numbers into text; for booleans that is never what was meant.
fn key_text(key: &Node) -> Result<String, Finding> {
    match &key.value {
        Value::Text(text) | Value::Float(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Bool(truth, text) => {
            let reason = format!("the key `{text}` is the boolean {truth} in YAML");
            Err(Finding::at(key.at, reason).help(format!("quote it: \"{text}\"")))
        }
        Value::Null => Err(Finding::at(key.at, "a key is empty")),
        Value::List(_) | Value::Map(_) => Err(Finding::at(key.at, "a key must be text")),
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}
