//! `pintle.v1.Debug` on the engine: what is recorded of pods' starts.
//!
//! In: whether to record. Out: the last operations with their stages.

use std::time::{Duration, UNIX_EPOCH};

use pintle_cri_api::ext::{self, debug_server::Debug, waterfall_request::Recording};
use tonic::{Request, Response, Status};

use super::Reply;
use crate::{
    Engine,
    waterfall::{self, Operation, Stage},
};

#[tonic::async_trait]
impl Debug for Engine {
    async fn waterfall(&self, request: Request<ext::WaterfallRequest>) -> Reply<ext::WaterfallResponse> {
        let wanted = request.into_inner().recording;
        match Recording::try_from(wanted) {
            Ok(Recording::Keep) => {}
            Ok(Recording::On) => waterfall::record(true),
            Ok(Recording::Off) => waterfall::record(false),
            Err(_) => {
                return Err(Status::invalid_argument(format!("recording: there is no value {wanted}")));
            }
        }
        let operations = waterfall::recorded().into_iter().map(operation).collect();
        Ok(Response::new(ext::WaterfallResponse { recording: waterfall::is_recording(), operations }))
    }
}

fn operation(of: Operation) -> ext::Operation {
    ext::Operation {
        name: of.name.to_owned(),
        pod_sandbox_id: of.sandbox,
        container_id: of.container,
        began_at: nanos(of.began.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(of.took),
        stages: of.stages.iter().map(stage).collect(),
    }
}

fn stage(of: &Stage) -> ext::Stage {
    ext::Stage {
        name: of.name.to_owned(),
        depth: u32::try_from(of.depth).unwrap_or(u32::MAX),
        offset_nanos: nanos(of.offset),
        duration_nanos: nanos(of.took),
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
