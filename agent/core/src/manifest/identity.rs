//! Makes a pod of a manifest a static pod of this node: name, namespace, uid, annotations.
//!
//! In: a checked pod and the text of its document in canonical form. Out: a [`DesiredPod`]. The uid and the hash depend
//! on what the manifest says and on the node's name, never on white space, comments, the file or the time.

use k8s_openapi::api::core::v1 as api;
use sha2::{Digest, Sha256};

use super::NodeInfo;
use crate::ids::PodUid;
use crate::model::DesiredPod;
use crate::time::Timestamp;

/// Where a pod's configuration comes from.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The hash of a pod's configuration.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// When a pod's configuration was first seen.
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// Gives the pod its identity on this node.
pub(crate) fn assume(
    mut pod: api::Pod,
    canonical: &str,
    (source, seen): (String, Timestamp),
    node: &NodeInfo,
) -> DesiredPod {
    let hash = hex(&Sha256::digest(canonical.as_bytes()));
    let metadata = &mut pod.metadata;
    let uid = metadata.uid.take().filter(|uid| !uid.is_empty()).unwrap_or_else(|| uid(&node.name, canonical));
    metadata.uid = Some(uid.clone());
    metadata.name = metadata.name.take().map(|name| format!("{name}-{}", node.name.to_lowercase()));
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".to_owned());
    }
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), "file".to_owned());
    annotations.insert(HASH_ANNOTATION.to_owned(), hash.clone());
    annotations.insert(SEEN_ANNOTATION.to_owned(), seen.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.name.clone());
    }
    DesiredPod { uid: PodUid::new(uid), pod, hash, source }
}

/// A UUID of version 8: 122 bits of a hash.
fn uid(node: &str, canonical: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"pintle static pod\0");
    hasher.update(node.as_bytes());
    hasher.update(b"\0");
    hasher.update(canonical.as_bytes());
    let mut bytes: Vec<u8> = hasher.finalize().into_iter().take(16).collect();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
