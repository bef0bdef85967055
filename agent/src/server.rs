//! The agent's own service, `pintle.v1.Agent`, served beside CRI on the same socket.
//!
//! In: questions about pods. Out: `v1.PodList` as JSON; why a pod is not Ready; what is wrong with the manifests. It answers
//! from the status manager and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use pintle_core::explain::{Explanation, explain, explain_waiting};
use pintle_core::model::{DesiredPod, Policy};
use pintle_cri_api::ext;
use pintle_cri_api::ext::agent_server::Agent;
use serde::Serialize;
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::status_manager::StatusManager;

/// The service.
#[derive(Debug)]
pub(crate) struct AgentService {
    /// What is known of pods.
    pub(crate) statuses: StatusManager,
    /// The numbers that decisions go by.
    pub(crate) policy: Arc<Policy>,
    /// The node's name: static pods may be asked for without it.
    pub(crate) node: String,
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn explain(
        &self,
        request: Request<ext::ExplainRequest>,
    ) -> Result<Response<ext::ExplainResponse>, Status> {
        let ext::ExplainRequest { namespace, name } = request.into_inner();
        let answer =
            if name.is_empty() { self.explain_manifests() } else { self.explain_pod(&namespace, &name)? };
        Ok(Response::new(ext::ExplainResponse { json: answer.to_string() }))
    }

    async fn pods(&self, request: Request<ext::PodsRequest>) -> Result<Response<ext::PodsResponse>, Status> {
        let ext::PodsRequest { namespace, name } = request.into_inner();
        let wanted = |pod: &api::Pod| {
            (namespace.is_empty() || pod.metadata.namespace.as_deref().unwrap_or("default") == namespace)
                && (name.is_empty() || self.is_named(pod, &name))
        };
        let mut items = self.statuses.objects(wanted);
        let key = |pod: &api::Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        items.sort_by_cached_key(key);
        let list = List { api_version: "v1", kind: "PodList", metadata: BTreeMap::new(), items };
        let json = serde_json::to_string(&list).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(ext::PodsResponse { json }))
    }
}

/// `v1.PodList`, written out without a tree of values in between, which would take ten times the memory.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    api_version: &'static str,
    kind: &'static str,
    metadata: BTreeMap<(), ()>,
    items: Vec<api::Pod>,
}

impl AgentService {
    /// By its full name, or by the one in its manifest.
    fn is_named(&self, pod: &api::Pod, name: &str) -> bool {
        let full = pod.metadata.name.as_deref().unwrap_or_default();
        full == name || full.strip_suffix(&self.node).and_then(|rest| rest.strip_suffix('-')) == Some(name)
    }

    fn explain_manifests(&self) -> serde_json::Value {
        let errors: Vec<_> = self.statuses.source_errors();
        let waiting: Vec<String> = self
            .statuses
            .waiting()
            .iter()
            .map(|(pod, uid)| {
                format!("{}/{} waits until the pod with uid {uid} is gone", pod.namespace(), pod.name())
            })
            .collect();
        let text = if errors.is_empty() && waiting.is_empty() {
            "every manifest is accepted\n".to_owned()
        } else {
            let lines = errors.iter().map(ToString::to_string).chain(waiting.iter().cloned());
            lines.map(|line| line + "\n").collect()
        };
        let errors: Vec<_> = errors
            .iter()
            .map(|error| {
                json!({
                    "file": error.file, "line": error.position.map(|at| at.line),
                    "column": error.position.map(|at| at.column), "field": error.field,
                    "reason": error.reason, "kept": error.kept,
                })
            })
            .collect();
        json!({ "errors": errors, "waiting": waiting, "text": text })
    }

    fn explain_pod(&self, namespace: &str, name: &str) -> Result<serde_json::Value, Status> {
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let is_meant = |pod: &DesiredPod| pod.namespace() == namespace && self.is_named(&pod.pod, name);
        let entry = self.statuses.find(is_meant);
        let waiting = self.statuses.waiting().into_iter().find(|(pod, _)| is_meant(pod));
        let waiting = waiting.map(|(pod, uid)| explain_waiting(&pod, &uid, clock::now()));
        let Some(entry) = entry else {
            return waiting.map_or_else(|| Err(self.unknown(namespace, name)), |waits| with_text(&waits));
        };
        let full = format!("{namespace}/{}", entry.pod.as_deref().map_or(name, DesiredPod::name));
        let Some((goal, observed)) = &entry.basis else {
            return Ok(refused(&full, &entry.status));
        };
        let mut explanation = explain(goal, observed, clock::now(), &self.policy);
        explanation.links.extend(waiting.into_iter().flat_map(|waits| waits.links));
        let mut answer = with_text(&explanation)?;
        // A pod may be as it should be and yet not what its manifest says now.
        let errors = self.statuses.source_errors().into_iter().filter(|error| error.kept.contains(&full));
        let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
        if let (Some(fields), false) = (answer.as_object_mut(), errors.is_empty()) {
            let text = format!("{explanation}its manifest is wrong:\n  {}\n", errors.join("\n  "));
            fields.insert("text".into(), text.into());
            fields.insert("manifestErrors".into(), errors.into());
        }
        Ok(answer)
    }

    /// No such pod: perhaps because of what is wrong with a manifest.
    fn unknown(&self, namespace: &str, name: &str) -> Status {
        let errors = self.statuses.source_errors();
        let list: String = errors.iter().take(MOST_ERRORS).map(|error| format!("\n    {error}")).collect();
        let why = match errors.len() {
            0 => "`pintle get pods -A` lists pods".to_owned(),
            count if count <= MOST_ERRORS => format!("these manifests are wrong:{list}"),
            count => format!(
                "these manifests are wrong:{list}\n    and {} more, see `pintle explain manifests`",
                count - MOST_ERRORS
            ),
        };
        Status::not_found(format!("no pod {name:?} in namespace {namespace:?}; {why}"))
    }
}

/// How many manifest errors are told with a pod that is not there.
const MOST_ERRORS: usize = 5;

fn refused(full: &str, status: &api::PodStatus) -> serde_json::Value {
    let message = status.message.clone().unwrap_or_default();
    let text = format!("{full} is not Ready\n└─ {message}; next: nothing, until its manifest changes\n");
    json!({ "pod": full, "ready": false, "refused": status, "text": text })
}

fn with_text(explanation: &Explanation) -> Result<serde_json::Value, Status> {
    let mut answer = serde_json::to_value(explanation).map_err(|e| Status::internal(e.to_string()))?;
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("text".into(), explanation.to_string().into());
    }
    Ok(answer)
}
