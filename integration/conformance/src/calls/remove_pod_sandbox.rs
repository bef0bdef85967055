//! RemovePodSandbox: nothing is left, however often it is asked for.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a sandbox that was removed is not found",
            "PodSandboxStatus returns an error if the sandbox is not present",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                run.remove_pod(&pod.id).await?;
                refused(run.pod_answer(&pod.id, false).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "a sandbox that was removed, or never was, can be removed",
            "idempotent: no error if the sandbox has already been removed",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                for _ in 0..2 {
                    run.remove_pod(&pod.id).await?;
                }
                Ok(run.remove_pod(NOBODY).await?)
            },
        ),
        case(
            "its containers go with it, the running ones too",
            "running containers in the sandbox must be forcibly terminated and removed",
            |run: Run| async move {
                let pod = run.pod().await?;
                let (one, two) = (pod.start(|_| {}).await?, pod.create(|_| {}).await?);
                run.remove_pod(&pod.id).await?;
                for id in [one, two] {
                    refused(run.answer(&id, false).await, &[Code::NotFound])?;
                }
                refused(run.pod_answer(&pod.id, false).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "two removals of a sandbox at once both succeed",
            "idempotent: no error if it was done already",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                let (one, two) = tokio::join!(run.remove_pod(&pod.id), run.remove_pod(&pod.id));
                one?;
                Ok(two?)
            },
        ),
    ]
}
