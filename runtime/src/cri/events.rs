//! The call that streams what happens to containers: GetContainerEvents.

use futures_util::StreamExt as _;
use pintle_cri_api::v1 as cri;

use super::stream::Streamed;
use crate::{Engine, engine::serve::wait_until};

/// Every event from now on, until serving ends; first those that are kept for who comes back.
pub(super) fn subscribe(engine: &Engine) -> Streamed<cri::ContainerEventResponse> {
    let ends = wait_until(engine.serving_ends.subscribe());
    Box::pin(engine.subscribe().take_until(ends))
}
