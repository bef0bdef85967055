//! StopContainer: a grace, then force; however often it is asked for.

use std::time::Instant;

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "a container that ends on the signal ends by itself",
            "stops a running container with a grace period",
            |run: Run| async move {
                let script = "trap 'exit 7' TERM; while true; do sleep 0.05; done";
                let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                run.stop(&id, 20).await?;
                let status = run.status(&id).await?;
                same("the state", status.state(), v1::ContainerState::ContainerExited)?;
                same("the exit code", status.exit_code, 7)
            },
        ),
        case(
            "a container that does not is killed after the grace",
            "the runtime must forcibly kill the container after the grace period",
            |run: Run| async move {
                let script = "trap '' TERM; while true; do sleep 0.05; done";
                let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
                let begin = Instant::now();
                run.stop(&id, 1).await?;
                ensure!(begin.elapsed().as_millis() >= 900, "it had no grace: {:?}", begin.elapsed());
                let status = run.status(&id).await?;
                same("the state", status.state(), v1::ContainerState::ContainerExited)?;
                same("the exit code", status.exit_code, 137)
            },
        ),
        case(
            "without a grace it is killed at once",
            "timeout 0: forcibly terminate the container immediately",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                run.stop(&id, 0).await?;
                same("the exit code", run.status(&id).await?.exit_code, 137)
            },
        ),
        case(
            "the stop signal is the container's, else the image's",
            "the custom stop signal for the container",
            stop_signal,
        )
        .containerd(
            "the exit code",
            "the field came with Kubernetes 1.33; containerd 1.6 knows only the image's",
        ),
    ];
    all.extend(repeated());
    all
}

async fn stop_signal(run: Run) -> Outcome {
    let pod = run.shared().await?;
    let script =
        "trap 'exit 1' TERM; trap 'exit 2' USR1; trap 'exit 3' USR2; while true; do sleep 0.05; done";
    let of_image = |config: &mut v1::ContainerConfig| {
        config.image = Some(image(crate::images::FULL));
        config.command = shell(script);
    };
    let id = pod.start(of_image).await?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    run.stop(&id, 20).await?;
    same("the exit code by the image's signal", run.status(&id).await?.exit_code, 2)?;
    let own = |config: &mut v1::ContainerConfig| {
        of_image(config);
        config.stop_signal = v1::Signal::Sigusr2.into();
    };
    let id = pod.start(own).await?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    run.stop(&id, 20).await?;
    same("the exit code by its own signal", run.status(&id).await?.exit_code, 3)?;
    same("the status's signal", run.status(&id).await?.stop_signal(), v1::Signal::Sigusr2)
}

fn repeated() -> Vec<Case> {
    vec![
        case(
            "a container can be stopped again",
            "idempotent: no error if the container has already been stopped",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                for _ in 0..3 {
                    run.stop(&id, 0).await?;
                }
                Ok(())
            },
        ),
        case(
            "a container that ended by itself can be stopped, and keeps its exit code",
            "idempotent: no error if it was done already",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = shell("exit 3")).await?;
                run.ended(&id).await?;
                run.stop(&id, 1).await?;
                same("the exit code", run.status(&id).await?.exit_code, 3)
            },
        ),
        case(
            "a container that was never started can be stopped",
            "idempotent: it does not run",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                Ok(run.stop(&id, 1).await?)
            },
        ),
        case(
            "a container that is gone, or never was, can be stopped",
            "idempotent: a removed container does not run either",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                run.remove(&id).await?;
                run.stop(&id, 1).await?;
                Ok(run.stop(NOBODY, 1).await?)
            },
        )
        .containerd("NotFound", "containerd 1.6 knows only the stop of a stopped one as repeated; its later versions and Pintle are right"),
        case(
            "a second stop with less grace is not held up by the first",
            "each call has a grace period of its own",
            |run: Run| async move {
                let script = "trap '' TERM; while true; do sleep 0.05; done";
                let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
                let begin = Instant::now();
                let (long, short) = tokio::join!(run.stop(&id, 25), run.stop(&id, 1));
                long?;
                short?;
                ensure!(begin.elapsed().as_secs() < 20, "both took {:?}", begin.elapsed());
                Ok(())
            },
        ),
        case(
            "a stop that its client broke off can be asked for again",
            "a client that timed out asks again",
            |run: Run| async move {
                let script = "trap '' TERM; while true; do sleep 0.05; done";
                let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
                let stop = v1::StopContainerRequest { container_id: id.clone(), timeout: 20 };
                let mut request = tonic::Request::new(stop);
                request.set_timeout(std::time::Duration::from_millis(50));
                fails(run.cri().stop_container(request).await)?;
                run.stop(&id, 0).await?;
                same("the state", run.status(&id).await?.state(), v1::ContainerState::ContainerExited)
            },
        ),
    ]
}
