//! Status: whether the runtime can do its work.

use std::collections::BTreeSet;

use super::prelude::*;

async fn status(run: &Run, verbose: bool) -> Outcome<v1::StatusResponse> {
    Ok(run.cri().status(v1::StatusRequest { verbose }).await?.into_inner())
}

const NEWER: &str = "handlers came with Kubernetes 1.30; containerd 1.6 does not know them";

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "the runtime and its network are ready",
            "the required conditions are RuntimeReady and NetworkReady",
            |run: Run| async move {
                let conditions = status(&run, false).await?.status.unwrap_or_default().conditions;
                for kind in ["RuntimeReady", "NetworkReady"] {
                    let found: Vec<_> = conditions.iter().filter(|c| c.r#type == kind).collect();
                    same(kind, found.len(), 1)?;
                    ensure!(found.iter().all(|c| c.status), "{kind} is not so: {found:?}");
                }
                Ok(())
            },
        ),
        case(
            "more is told of the runtime only when it is asked for",
            "info should only be returned non-empty when verbose is true",
            |run: Run| async move {
                same("info", status(&run, false).await?.info.len(), 0)?;
                ensure!(!status(&run, true).await?.info.is_empty(), "verbose adds nothing");
                Ok(())
            },
        ),
        case(
            "handlers have names of their own, and one is the default",
            "name must be unique in StatusResponse; an empty string denotes the default handler",
            |run: Run| async move {
                let handlers = status(&run, false).await?.runtime_handlers;
                let names: BTreeSet<_> = handlers.iter().map(|handler| handler.name.clone()).collect();
                same("the number of names", names.len(), handlers.len())?;
                ensure!(names.contains(""), "there is no default");
                Ok(())
            },
        )
        .containerd("there is no default", NEWER),
        case(
            "the features that are told are those that there are",
            "features of the handler and of the runtime",
            |run: Run| async move {
                let answer = status(&run, false).await?;
                let default = answer.runtime_handlers.into_iter().find(|handler| handler.name.is_empty());
                let features = default.and_then(|handler| handler.features).unwrap_or_default();
                ensure!(features.recursive_read_only_mounts, "no recursive read-only mounts");
                let groups = answer.features.unwrap_or_default().supplemental_groups_policy;
                ensure!(groups, "no policy of supplemental groups");
                Ok(())
            },
        )
        .containerd("no recursive read-only mounts", NEWER),
    ]
}
