//! StopPodSandbox: everything of the pod ends, however often it is asked for.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a sandbox that was stopped is not ready and still known",
            "stops any running process that is part of the sandbox",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                let status = run.pod_status(&pod.id).await?;
                same("the state", status.state(), v1::PodSandboxState::SandboxNotready)
            },
        ),
        case(
            "a sandbox can be stopped again",
            "idempotent: no error if all relevant resources have been reclaimed",
            |run: Run| async move {
                let pod = run.pod().await?;
                for _ in 0..3 {
                    run.stop_pod(&pod.id).await?;
                }
                Ok(())
            },
        ),
        case(
            "a sandbox that is gone, or never was, can be stopped",
            "idempotent: no error if all relevant resources have been reclaimed",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                run.remove_pod(&pod.id).await?;
                run.stop_pod(&pod.id).await?;
                Ok(run.stop_pod(NOBODY).await?)
            },
        )
        .containerd("NotFound", "containerd 1.6 does not find it; the call is idempotent, and its later versions and Pintle are right"),
        case(
            "its running containers are killed",
            "running containers in the sandbox must be forcibly terminated",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|config| config.command = shell("trap '' TERM; sleep 1000")).await?;
                run.stop_pod(&pod.id).await?;
                let status = run.status(&id).await?;
                same("the state", status.state(), v1::ContainerState::ContainerExited)?;
                same("the exit code", status.exit_code, 137)
            },
        ),
        case(
            "two stops at once both succeed",
            "multiple StopPodSandbox calls are expected",
            |run: Run| async move {
                let pod = run.networked(|_| {}).await?;
                pod.start(|_| {}).await?;
                let (one, two) = tokio::join!(run.stop_pod(&pod.id), run.stop_pod(&pod.id));
                one?;
                Ok(two?)
            },
        ),
        case(
            "its network is given back",
            "reclaims network resources (e.g. IP addresses) allocated to the sandbox",
            |run: Run| async move {
                let pod = run.networked(|_| {}).await?;
                let ip = run.pod_status(&pod.id).await?.network.unwrap_or_default().ip;
                let reached = |ip: &str| {
                    let ping = ["ping", "-c", "1", "-W", "1", ip];
                    run.side().ground.command("busybox").args(ping).output().is_ok_and(|o| o.status.success())
                };
                ensure!(reached(&ip), "{ip} cannot be reached while the pod runs");
                run.stop_pod(&pod.id).await?;
                ensure!(!reached(&ip), "{ip} can be reached after the stop");
                Ok(())
            },
        ),
        case(
            "no container can be made in a stopped sandbox",
            "what is not ready takes no containers",
            |run: Run| async move {
                let pod = run.pod().await?;
                run.stop_pod(&pod.id).await?;
                refused(pod.try_create(pod.container()).await, &[Code::FailedPrecondition]).map(drop)
            },
        )
        .containerd("NotFound instead of", "containerd 1.6 says that a task is not found; it is the state that is wrong, and Pintle is right"),
    ]
}
