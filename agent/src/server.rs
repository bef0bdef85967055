//! The agent's own service, `pintle.v1.Agent`, served beside CRI on the same socket.
//!
//! In: questions about pods. Out: `v1.PodList` as JSON; why a pod is not Ready; what is wrong with the manifests. It answers
//! from the status manager and decides nothing.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use pintle_core::explain::explain;
use pintle_core::model::Policy;
use pintle_cri_api::ext;
use pintle_cri_api::ext::agent_server::Agent;
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::status_manager::{Entry, StatusManager};

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
        let entries = self.statuses.entries();
        let mut pods: Vec<api::Pod> = entries.iter().filter_map(Entry::object).filter(wanted).collect();
        let key = |pod: &api::Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        pods.sort_by_key(key);
        let list = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods });
        Ok(Response::new(ext::PodsResponse { json: list.to_string() }))
    }
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
        let matches = |entry: &Entry| {
            let pod = entry.pod.as_ref();
            pod.is_some_and(|pod| pod.namespace() == namespace && self.is_named(&pod.pod, name))
        };
        let entry = self.statuses.entries().into_iter().find(matches).ok_or_else(|| {
            Status::not_found(format!(
                "no pod {name:?} in namespace {namespace:?}; `pintle get pods -A` lists pods, `pintle explain manifests` what is wrong with manifests"
            ))
        })?;
        let Some((goal, observed)) = &entry.basis else {
            let message = entry.status.message.clone().unwrap_or_default();
            let text = format!(
                "{namespace}/{name} is not Ready\n└─ {message}; next: nothing, until its manifest changes\n"
            );
            return Ok(
                json!({ "pod": format!("{namespace}/{name}"), "ready": false, "refused": entry.status, "text": text }),
            );
        };
        let explanation = explain(goal, observed, clock::now(), &self.policy);
        let mut answer = serde_json::to_value(&explanation).map_err(|e| Status::internal(e.to_string()))?;
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("text".into(), explanation.to_string().into());
        }
        Ok(answer)
    }
}
