//! RemoveContainer: nothing is left, however often it is asked for.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "a removed container is not found, whatever its state was",
            "if the container is running, it must be forcibly removed",
            |run: Run| async move {
                let pod = run.shared().await?;
                let (created, running) = (pod.create(|_| {}).await?, pod.start(|_| {}).await?);
                let ended = pod.start(|config| config.command = words(&["/bin/true"])).await?;
                run.ended(&ended).await?;
                for id in [created, running, ended] {
                    run.remove(&id).await?;
                    refused(run.answer(&id, false).await, &[Code::NotFound])?;
                }
                Ok(())
            },
        ),
        case(
            "a container that is gone, or never was, can be removed",
            "idempotent: no error if the container has already been removed",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                for _ in 0..2 {
                    run.remove(&id).await?;
                }
                Ok(run.remove(NOBODY).await?)
            },
        ),
        case(
            "two removals of a running container at once both succeed",
            "idempotent: no error if it was done already",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                let (one, two) = tokio::join!(run.remove(&id), run.remove(&id));
                one?;
                Ok(two?)
            },
        )
        .containerd_at_times(
            "is already in removing state",
            "containerd refuses the second one; the call is idempotent, and Pintle is right",
        ),
        case(
            "its log stays",
            "logs belong to the kubelet, which reads them after the container is gone",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = shell("echo kept")).await?;
                let path = run.ended(&id).await?.log_path;
                run.remove(&id).await?;
                ensure!(std::fs::read_to_string(&path)?.contains("kept"), "{path} is empty");
                Ok(())
            },
        ),
        case("its processes are gone", "the container must be forcibly removed", |run: Run| async move {
            let id = run.shared().await?.start(|_| {}).await?;
            let pid = run.pid(&id).await?;
            run.remove(&id).await?;
            let gone = !std::path::Path::new(&format!("/proc/{pid}/ns/pid")).exists();
            ensure!(gone, "process {pid} lives on");
            Ok(())
        }),
    ]
}
