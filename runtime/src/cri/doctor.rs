//! `pintle.v1.Doctor` on the engine: what it holds, and giving back what it does not.
//!
//! In: calls. Out: the engine's answers, decoded and encoded here.

use pintle_cri_api::ext::{self, doctor_server::Doctor};
use tonic::Request;

use super::{Reply, reply, to_status};
use crate::{
    Engine,
    doctor::{EngineSide as _, Held, Release},
};

#[tonic::async_trait]
impl Doctor for Engine {
    async fn holds(&self, _: Request<ext::HoldsRequest>) -> Reply<ext::HoldsResponse> {
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let holds = engine.holds().await.map(Option::unwrap_or_default);
        let held =
            |all: Vec<Held>| all.into_iter().map(|one| ext::Held { id: one.id, busy: one.busy }).collect();
        reply(holds.map(|holds| ext::HoldsResponse {
            sandboxes: held(holds.sandboxes),
            containers: held(holds.containers),
            images_busy: holds.images_busy,
        }))
    }

    async fn release(&self, request: Request<ext::ReleaseRequest>) -> Reply<ext::ReleaseResponse> {
        let engine = self.arc().map_err(|error| to_status(&error))?;
        let ext::ReleaseRequest { sandboxes, containers, images } = request.into_inner();
        reply(
            engine.release(Release { sandboxes, containers, images }).await.map(|()| ext::ReleaseResponse {}),
        )
    }
}
