//! Finds the objects in a file's documents: checks `apiVersion` and `kind` and opens lists.
//!
//! In: the documents. Out: those that are pods, and a finding for each that is not.

use super::error::{Finding, Position};
use super::node::{Node, Value, shorten};
use super::strict::nearest;
use super::yaml::MAX_DOCUMENTS;

/// An object that says it is a pod.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    /// The object.
    pub(crate) node: &'a Node,
    /// What to put before a field's path: `items[2].` inside of a list.
    pub(crate) prefix: String,
}

impl Object<'_> {
    /// The text that the pod's identity is computed from: everything that was asked for.
    pub(crate) fn canonical(&self) -> String {
        let asked = self.node.entries().iter().filter(|entry| entry.key != "status").cloned().collect();
        Node { at: self.node.at, value: Value::Map(asked) }.canonical()
    }
}

/// Every pod of the documents, and what is wrong with everything else.
pub(crate) fn find(documents: &[Node]) -> (Vec<Object<'_>>, Vec<Finding>) {
    let mut finder = Finder { objects: Vec::new(), findings: Vec::new() };
    for document in documents {
        finder.document(document);
    }
    if finder.objects.len() > MAX_DOCUMENTS {
        let reason = format!("the file has more than {MAX_DOCUMENTS} pods");
        finder.findings.push(Finding::at(Position::START, reason));
        finder.objects.clear();
    }
    (finder.objects, finder.findings)
}

struct Finder<'a> {
    objects: Vec<Object<'a>>,
    findings: Vec<Finding>,
}

impl<'a> Finder<'a> {
    fn document(&mut self, node: &'a Node) {
        match self.kind(node, "") {
            Some("Pod") => self.objects.push(Object { node, prefix: String::new() }),
            Some("List") => self.list(node, Items::SayWhatTheyAre),
            Some("PodList") => self.list(node, Items::ArePods),
            Some(kind) => self.refuse_kind(node, kind, ""),
            None => {}
        }
    }

    fn list(&mut self, list: &'a Node, items: Items) {
        for entry in list.entries() {
            if !["apiVersion", "kind", "metadata", "items"].contains(&entry.key.as_str()) {
                self.findings.push(Finding::at(entry.at, "unknown field of a list").field(&entry.key));
            }
        }
        let Some(nodes) = list.get("items") else { return };
        if !matches!(nodes.value, Value::List(_)) {
            let reason = format!("must be a list, not {}", nodes.describe());
            self.findings.push(Finding::at(nodes.at, reason).field(&"items"));
        }
        for (at, node) in nodes.elements().iter().enumerate() {
            let prefix = format!("items[{at}].");
            let unnamed = matches!(items, Items::ArePods)
                && matches!(node.value, Value::Map(_))
                && node.get("kind").is_none()
                && node.get("apiVersion").is_none();
            if unnamed {
                self.objects.push(Object { node, prefix });
                continue;
            }
            match self.kind(node, &prefix) {
                Some("Pod") => self.objects.push(Object { node, prefix }),
                Some(kind) => self.refuse_kind(node, kind, &prefix),
                None => {}
            }
        }
    }

    /// The kind that an object says it is, if that can be told.
    fn kind(&mut self, node: &'a Node, prefix: &str) -> Option<&'a str> {
        if !matches!(node.value, Value::Map(_)) {
            let reason =
                format!("a manifest must be an object with apiVersion and kind, not {}", node.describe());
            self.findings.push(Finding::at(node.at, reason).field(&prefix.trim_end_matches('.')));
            return None;
        }
        let version = self.text(node, "apiVersion", prefix);
        let kind = self.text(node, "kind", prefix);
        let (version, kind) = (version?, kind?);
        if version != "v1" && ["Pod", "PodList", "List"].contains(&kind) {
            let at = node.get("apiVersion").map_or(node.at, |value| value.at);
            let reason = format!("a {kind} has the apiVersion `v1`, not `{}`", shorten(version));
            self.findings.push(Finding::at(at, reason).field(&format!("{prefix}apiVersion")));
            return None;
        }
        Some(kind)
    }

    fn text(&mut self, node: &'a Node, key: &str, prefix: &str) -> Option<&'a str> {
        let text = node.text_at(key).filter(|text| !text.is_empty());
        if text.is_none() {
            let (at, reason) = match node.get(key) {
                Some(value) => (value.at, format!("must be a string, not {}", value.describe())),
                None => (node.at, "is required".to_owned()),
            };
            self.findings.push(Finding::at(at, reason).field(&format!("{prefix}{key}")));
        }
        text
    }

    fn refuse_kind(&mut self, node: &Node, kind: &str, prefix: &str) {
        let at = node.get("kind").map_or(node.at, |value| value.at);
        let reason = format!("{} is not supported yet in a manifest directory", shorten(kind));
        let help = match nearest(kind, &["Pod", "PodList"]) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "supported: Pod, and List or PodList of them".to_owned(),
        };
        self.findings.push(Finding::at(at, reason).help(help).field(&format!("{prefix}kind")));
    }
}

/// What is known of the elements of a list.
#[derive(Clone, Copy)]
enum Items {
    /// Each has its own kind.
    SayWhatTheyAre,
    /// The list's kind tells.
    ArePods,
}
