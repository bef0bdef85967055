//! ReopenContainerLog: after a rotation.

use super::{NOBODY, prelude::*};

async fn reopen(run: &Run, id: &str) -> Result<(), tonic::Status> {
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    run.cri().reopen_container_log(request).await.map(drop)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "after a rotation lines go to a new file, and none is lost",
            "asks the runtime to reopen the log file, often after it has been rotated",
            |run: Run| async move {
                let script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.01; done";
                let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
                let path = run.status(&id).await?.log_path;
                let old = format!("{path}.old");
                let lines = |path: &str| -> Vec<String> {
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    text.lines().filter_map(|line| line.split(" line ").nth(1).map(str::to_owned)).collect()
                };
                run.until("some lines", async || Ok((lines(&path).len() > 5).then_some(()))).await?;
                std::fs::rename(&path, &old)?;
                reopen(&run, &id).await?;
                run.until("more lines", async || Ok((lines(&path).len() > 5).then_some(()))).await?;
                run.stop(&id, 0).await?;
                let all: Vec<String> = lines(&old).into_iter().chain(lines(&path)).collect();
                let wanted: Vec<String> = (1..=all.len()).map(|number| number.to_string()).collect();
                same("the lines", all, wanted)
            },
        ),
        case(
            "a container that does not run is refused, and no file appears",
            "once an error is returned, a new log file must not be created",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = words(&["/bin/true"])).await?;
                let path = run.ended(&id).await?.log_path;
                std::fs::remove_file(&path)?;
                fails(reopen(&run, &id).await)?;
                ensure!(!std::path::Path::new(&path).exists(), "there is a new {path}");
                Ok(())
            },
        ),
        case(
            "ReopenContainerLog of a container that is not there is NotFound",
            "id of the container for which to reopen the log",
            |run: Run| async move { refused(reopen(&run, NOBODY).await, &[Code::NotFound]).map(drop) },
        ),
    ]
}
