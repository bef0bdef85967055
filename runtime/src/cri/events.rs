//! The call that streams what happens to containers: GetContainerEvents.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use pintle_cri_api::v1 as cri;
use tonic::Status;

use crate::{Engine, engine::serve::wait_until};

/// Streams of the server: nobody may rely on more.
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Every event from now on, until serving ends.
pub(super) fn subscribe(engine: &Engine) -> Streamed<cri::ContainerEventResponse> {
    let ends = wait_until(engine.serving_ends.subscribe());
    Box::pin(engine.subscribe().take_until(ends))
}
