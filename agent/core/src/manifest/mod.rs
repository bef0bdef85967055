//! From a manifest file's text to checked pods: reads, refuses what it does not know, fills in defaults, validates.
//!
//! In: a file's bytes, what the node is called, the time. Out: [`DesiredPod`]s with every default that the API server
//! would fill in, or every error of the file with line, field and reason. Nothing is ignored silently: a field that
//! Kubernetes does not know, and a field that Pintle cannot honour yet, are errors.
//!
//! ```text
//! bytes ─ yaml ─► Node (values with lines) ─ strict + supported ─► api::Pod ─ defaults ─ validate ─ identity ─► DesiredPod
//! ```
//!
//! To support another field: add its path to the table in `supported.rs`, its default to `defaults.rs`, its rules to
//! `validate/`.

mod defaults;
mod error;
mod identity;
mod node;
mod objects;
mod path;
mod scalar;
mod strict;
mod supported;
mod validate;
mod yaml;

use k8s_openapi::api::core::v1 as api;

pub use error::{MAX_ERRORS, ManifestError, ManifestErrors, Position};
pub use identity::{HASH_ANNOTATION, SEEN_ANNOTATION, SOURCE_ANNOTATION};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_DOCUMENTS, MAX_VALUES};

use crate::model::DesiredPod;
use crate::time::Timestamp;
use error::Finding;
use objects::Object;

/// What a manifest is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
}

/// Reads a manifest file. An empty file, or one of comments only, has no pods.
///
/// `file_name` is for messages only. `seen` becomes the annotation `kubernetes.io/config.seen` and takes no part in
/// the pod's identity. One error in the file refuses all of its pods; a file is taken as a whole.
pub fn parse(
    file_name: &str,
    bytes: &[u8],
    node: &NodeInfo,
    seen: Timestamp,
) -> Result<Vec<DesiredPod>, ManifestErrors> {
    let refuse = |findings: Vec<Finding>| {
        ManifestErrors::new(findings.into_iter().map(|f| f.in_file(file_name)).collect())
    };
    let documents = yaml::read(bytes).map_err(|finding| refuse(vec![finding]))?;
    let (objects, mut findings) = objects::find(&documents);
    let mut pods = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        let source = if at == 0 { file_name.to_owned() } else { format!("{file_name} (pod {})", at + 1) };
        match read_pod(object, node) {
            Ok(pod) => pods.push(identity::assume(pod, &object.canonical(), (source, seen), node)),
            Err(found) => findings.extend(found),
        }
    }
    if findings.is_empty() { Ok(pods) } else { Err(refuse(findings)) }
}

fn read_pod(object: &Object<'_>, node: &NodeInfo) -> Result<api::Pod, Vec<Finding>> {
    let (pod, mut issues) = strict::read::<api::Pod>(object.node);
    let mut pod = pod.unwrap_or_default();
    defaults::fill(&mut pod);
    issues.extend(validate::check(&pod, object.node, node, &issues));
    if issues.is_empty() {
        return Ok(pod);
    }
    let prefix = &object.prefix;
    Err(issues
        .into_iter()
        .map(|issue| Finding { field: format!("{prefix}{}", issue.finding.field), ..issue.finding })
        .collect())
}
