//! What the engine holds in memory, and giving back what it does not hold: its side of the doctor.
//!
//! In: a question, or ids of sandboxes and containers that are gone. Out: ids with whether they are being worked on; what is left of
//! the gone ones taken away. An id that the engine knows is refused: ids are random and never used again, so one that is not
//! known will never be.

use std::sync::Arc;

use super::{
    Engine, blocking,
    error::{Error, Failures, Result},
};
use crate::doctor::{EngineSide, Held, Holds, Release};

#[async_trait::async_trait]
impl EngineSide for Arc<Engine> {
    async fn holds(&self) -> Result<Option<Holds>> {
        let sandboxes = self.all_sandboxes();
        let containers = self.all_containers();
        Ok(Some(Holds {
            sandboxes: sandboxes
                .iter()
                .map(|sandbox| Held { id: sandbox.id.clone(), busy: sandbox.op.try_lock().is_err() })
                .collect(),
            containers: containers
                .iter()
                .map(|container| Held { id: container.id.clone(), busy: container.op.try_lock().is_err() })
                .collect(),
            images_busy: self.images.is_busy(),
        }))
    }

    async fn release(&self, release: Release) -> Result<()> {
        let known = |id: &&String| self.sandbox(id).is_ok() || self.container_in_any_state(id).is_some();
        if let Some(id) = release.sandboxes.iter().chain(&release.containers).find(known) {
            return Err(Error::FailedPrecondition(format!("{id} is in use")));
        }
        let engine = Arc::clone(self);
        blocking(move || {
            let mut failures = Failures::default();
            for id in &release.sandboxes {
                failures.note(engine.network.detach(id).map_err(Error::network("detaching the pod network")));
            }
            for id in &release.containers {
                let removed = engine.images.remove_snapshot(id);
                failures.note(removed.map_err(Error::image("removing a snapshot")));
            }
            if release.images {
                failures.note(engine.images.collect().map_err(Error::image("collecting what nothing needs")));
            }
            failures.into_result()
        })
        .await
    }
}
