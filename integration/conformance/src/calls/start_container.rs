//! StartContainer: the program runs, or its failure is told.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a started container runs and tells since when",
            "start time in nanoseconds",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let status = run.status(&id).await?;
                same("the state", status.state(), v1::ContainerState::ContainerRunning)?;
                ensure!(status.started_at >= status.created_at, "it was started before it was made");
                same("finished_at", status.finished_at, 0)
            },
        ),
        case(
            "a container that is not there is not found by StartContainer",
            "starts the container",
            |run: Run| async move { refused(run.start(NOBODY).await, &[Code::NotFound]).map(drop) },
        ),
        case(
            "a container that has ended is not started again",
            "created, running, exited: there is no way back; the next attempt is another container",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = words(&["/bin/true"])).await?;
                run.ended(&id).await?;
                refused(run.start(&id).await, &[Code::FailedPrecondition])?;
                same("the state", run.status(&id).await?.state(), v1::ContainerState::ContainerExited)
            },
        )
        .containerd(
            "Unknown",
            "containerd 1.6 refuses it with Unknown; it is the state that is wrong, and Pintle is right",
        ),
        case(
            "a program that cannot be executed fails the start, and the container has ended with a reason",
            "a reason says why the container is in its current state",
            |run: Run| async move {
                let pod = run.shared().await?;
                let id = pod.create(|config| config.command = words(&["/no/such/program"])).await?;
                fails(run.start(&id).await)?;
                let status = run.ended(&id).await?;
                ensure!(status.exit_code != 0, "the exit code is 0");
                ensure!(!status.reason.is_empty(), "there is no reason");
                ensure!(status.message.contains("/no/such/program"), "the message is {:?}", status.message);
                ensure!(status.finished_at > 0, "the time of its end is missing");
                Ok(())
            },
        ),
        case(
            "nothing can be started in a stopped sandbox",
            "what is not ready runs no containers",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.create(|_| {}).await?;
                run.stop_pod(&pod.id).await?;
                fails(run.start(&id).await).map(drop)
            },
        ),
    ]
}
