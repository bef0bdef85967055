//! A runtime for unit tests: it has the containers that it is told to have, and all its events are lost.
//!
//! In: containers from a test. Out: CRI's answers about them. It makes and ends nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use pintle_cri_api::v1;
use tonic::Status;

use super::{Events, Runtime};

/// The runtime.
#[derive(Debug, Default)]
pub(crate) struct FakeRuntime {
    containers: Mutex<BTreeMap<String, v1::ContainerStatus>>,
}

impl FakeRuntime {
    /// The container is there from now on, or changed; no event tells of it.
    pub(crate) fn set(&self, container: v1::ContainerStatus) {
        self.containers().insert(container.id.clone(), container);
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, v1::ContainerStatus>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cannot<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn list_pod_sandbox(
        &self,
        _filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, Status> {
        Ok(Vec::new())
    }

    async fn pod_sandbox_status(&self, _id: &str) -> Result<v1::PodSandboxStatus, Status> {
        cannot()
    }

    async fn run_pod_sandbox(&self, _config: v1::PodSandboxConfig) -> Result<String, Status> {
        cannot()
    }

    async fn stop_pod_sandbox(&self, _id: &str) -> Result<(), Status> {
        cannot()
    }

    async fn remove_pod_sandbox(&self, _id: &str) -> Result<(), Status> {
        cannot()
    }

    async fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, Status> {
        let wanted = filter.unwrap_or_default().label_selector;
        let known = self.containers();
        let fits = |c: &&v1::ContainerStatus| wanted.iter().all(|(k, v)| c.labels.get(k) == Some(v));
        let listed = known.values().filter(fits).map(|status| v1::Container {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            labels: status.labels.clone(),
            ..Default::default()
        });
        Ok(listed.collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        self.containers().get(id).cloned().ok_or_else(|| Status::not_found(id))
    }

    async fn create_container(&self, _request: v1::CreateContainerRequest) -> Result<String, Status> {
        cannot()
    }

    async fn start_container(&self, _id: &str) -> Result<(), Status> {
        cannot()
    }

    async fn stop_container(&self, _id: &str, _timeout_seconds: i64) -> Result<(), Status> {
        cannot()
    }

    async fn remove_container(&self, _id: &str) -> Result<(), Status> {
        cannot()
    }

    async fn reopen_container_log(&self, _id: &str) -> Result<(), Status> {
        cannot()
    }

    async fn image_status(&self, _image: &str) -> Result<Option<v1::Image>, Status> {
        Ok(None)
    }

    async fn pull_image(&self, _image: &str) -> Result<String, Status> {
        cannot()
    }

    /// A stream that never ends and never says anything: every event is lost.
    async fn container_events(&self) -> Result<Events, Status> {
        Ok(futures_util::stream::pending().boxed())
    }
}
