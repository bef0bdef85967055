//! PodSandboxStatus: what is told of a sandbox.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "what is not there is not found",
            "if the sandbox is not present, an error is returned",
            |run: Run| async move {
                refused(run.pod_answer(NOBODY, false).await, &[Code::NotFound])?;
                refused(run.pod_answer("", false).await, &[Code::NotFound, Code::InvalidArgument]).map(drop)
            },
        )
        .containerd(
            "Unknown instead of",
            "containerd 1.6 answers Unknown where an id is empty; Pintle is right",
        ),
        case(
            "a sandbox tells when it was made, in nanoseconds",
            "created_at is in nanoseconds and must be > 0",
            |run: Run| async move {
                let before = now();
                let pod = run.pod().await?;
                let made = run.pod_status(&pod.id).await?.created_at;
                ensure!((before..=now()).contains(&made), "{made} is not between {before} and now");
                run.stop_pod(&pod.id).await?;
                same("created_at after the stop", run.pod_status(&pod.id).await?.created_at, made)
            },
        ),
        case(
            "more is told only when it is asked for",
            "info is JSON, and only not empty when verbose is true",
            |run: Run| async move {
                let pod = run.shared().await?;
                same("info", run.pod_answer(&pod.id, false).await?.info.len(), 0)?;
                let info = run.pod_answer(&pod.id, true).await?.info;
                ensure!(!info.is_empty(), "verbose adds nothing");
                for (key, value) in &info {
                    let json = serde_json::from_str::<serde_json::Value>(value);
                    ensure!(json.is_ok(), "info {key} is no JSON: {value}");
                }
                pid_in(&info).map(drop)
            },
        ),
        case(
            "the statuses of its containers come with it, and when they were taken",
            "containers_statuses, and the time at which container and pod statuses were recorded",
            |run: Run| async move {
                let pod = run.pod().await?;
                let (one, two) = (pod.start(|_| {}).await?, pod.create(|_| {}).await?);
                let answer = run.pod_answer(&pod.id, false).await?;
                ensure!(answer.timestamp > 0, "the time is missing");
                let mut found: Vec<_> = answer.containers_statuses.iter().map(|s| s.id.clone()).collect();
                let mut wanted = vec![one.clone(), two];
                found.sort();
                wanted.sort();
                same("the containers", found, wanted)?;
                let told = answer.containers_statuses.into_iter().find(|status| status.id == one);
                same("the status", told, run.answer(&one, false).await?.status)
            },
        )
        .containerd(
            "the time is missing",
            "new in Kubernetes 1.26, for events; containerd 1.6 is older. Pintle is right",
        ),
        case(
            "an ended infra process makes the sandbox not ready",
            "SANDBOX_NOTREADY is the state of a sandbox that does not run",
            |run: Run| async move {
                let pod = run.pod().await?;
                let pid = pid_in(&run.pod_answer(&pod.id, true).await?.info)?;
                run.side().ground.run("kill", &["-KILL", &pid.to_string()]);
                run.until("the sandbox to be not ready", async || {
                    let state = run.pod_status(&pod.id).await?.state();
                    Ok((state == v1::PodSandboxState::SandboxNotready).then_some(()))
                })
                .await
            },
        ),
    ]
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
