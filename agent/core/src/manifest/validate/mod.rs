//! The rules that the API server checks on a pod, and the few that only this node can check.
//!
//! In: a pod with its defaults, and its document for the lines. Out: findings, each with the path of a field. Findings
//! that merely follow from a field that was refused before are left out.

mod container;
mod limits;
mod names;
mod pod;
mod resources;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::NodeInfo;
use super::error::Finding;
use super::node::Node;
use super::path::FieldPath;
use super::strict::{Issue, MAX_ISSUES};

/// Checks a pod of this document. `refused` is what the strict reading found.
pub(crate) fn check(pod: &api::Pod, document: &Node, node: &NodeInfo, refused: &[Issue]) -> Vec<Issue> {
    let mut checker = Checker { document, refused, issues: Vec::new() };
    pod::check_metadata(&mut checker, pod, node);
    match &pod.spec {
        Some(spec) => pod::check_spec(&mut checker, spec, node),
        None => checker.require(&FieldPath::root().field("spec"), "is required"),
    }
    checker.issues
}

/// Collects findings.
struct Checker<'a> {
    document: &'a Node,
    refused: &'a [Issue],
    issues: Vec<Issue>,
}

impl Checker<'_> {
    /// The value of a field is wrong.
    fn fail(&mut self, path: &FieldPath, reason: impl Into<String>) {
        self.push(path, Finding::at(self.document.locate(path), reason));
    }

    /// The value of a field is wrong, and this may be done about it.
    fn fail_with_help(&mut self, path: &FieldPath, reason: impl Into<String>, help: impl Into<String>) {
        self.push(path, Finding::at(self.document.locate(path), reason).help(help));
    }

    /// A field is missing. Not said when something was refused where it belongs: that may be it, misspelt.
    fn require(&mut self, path: &FieldPath, reason: &str) {
        let mut there = path.clone();
        while !self.is_written(&there) {
            there = there.parent();
        }
        let explained = if there == *path {
            self.refused.iter().any(|issue| issue.path.is_within(path))
        } else {
            self.refused.iter().any(|issue| issue.path.parent() == there)
        };
        if !explained {
            self.fail(path, reason);
        }
    }

    /// The outcome of a check of syntax.
    fn expect(&mut self, path: &FieldPath, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            self.fail(path, reason);
        }
    }

    /// A text that must be one of a few.
    fn one_of(&mut self, path: &FieldPath, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            let names: Vec<&str> =
                allowed.iter().map(|name| if name.is_empty() { "\"\"" } else { *name }).collect();
            let reason = format!("`{}` is none of {}", super::node::shorten(value), names.join(", "));
            self.fail(path, reason);
        }
    }

    /// Whether a list has so many elements at the most.
    fn at_most(&mut self, path: &FieldPath, length: usize, most: usize) -> bool {
        if length > most {
            self.fail(path, format!("has {length} entries; up to {most} are allowed"));
        }
        length <= most
    }

    /// Names that may be there only once. `places` are the paths by name.
    fn unique(&mut self, places: impl Iterator<Item = (String, FieldPath)>) {
        let mut seen: BTreeMap<String, FieldPath> = BTreeMap::new();
        for (name, path) in places {
            if name.is_empty() {
                continue;
            }
            if let Some(first) = seen.get(&name) {
                let line = self.document.locate(first).line;
                self.fail(&path, format!("`{name}` is already taken by {first} in line {line}"));
            } else {
                seen.insert(name, path);
            }
        }
    }

    /// Whether a field stands in the document, and was not filled in.
    fn is_written(&self, path: &FieldPath) -> bool {
        self.document.find(path).is_some()
    }

    fn push(&mut self, path: &FieldPath, finding: Finding) {
        let told = || self.refused.iter().any(|issue| path.is_within(&issue.path));
        if self.issues.len() >= MAX_ISSUES || told() {
            return;
        }
        self.issues.push(Issue { path: path.clone(), finding: finding.field(path) });
    }
}
