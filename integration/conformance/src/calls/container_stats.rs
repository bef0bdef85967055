//! ContainerStats: what one container uses.

use super::{NOBODY, prelude::*};

pub(super) async fn stats(run: &Run, id: &str) -> Result<v1::ContainerStats, tonic::Status> {
    let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
    Ok(run.cri().container_stats(request).await?.into_inner().stats.unwrap_or_default())
}

/// A container that holds some memory and has written some bytes.
pub(super) async fn busy(run: &Run) -> Outcome<String> {
    let script = "head -c 4000000 /dev/zero > /written; x=$(head -c 8000000 /dev/zero | tr '\\0' x); touch /ready; sleep 1000; echo $x";
    let id = run.shared().await?.start(|config| config.command = shell(script)).await?;
    run.until("the container to be busy", async || {
        Ok((run.exec(&id, "test -e /ready", 0).await?.exit_code == 0).then_some(()))
    })
    .await?;
    Ok(id)
}

fn value(of: &Option<v1::UInt64Value>) -> u64 {
    of.as_ref().map_or(0, |value| value.value)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "processor time and memory are told, and when they were looked at",
            "CPU and memory usage gathered from the container; timestamps must be > 0",
            |run: Run| async move {
                let id = busy(&run).await?;
                let found = stats(&run, &id).await?;
                let (cpu, memory) = (found.cpu.unwrap_or_default(), found.memory.unwrap_or_default());
                ensure!(cpu.timestamp > 0 && memory.timestamp > 0, "a time is missing");
                ensure!(value(&cpu.usage_core_nano_seconds) > 0, "no processor time");
                let working = value(&memory.working_set_bytes);
                ensure!((4 << 20..1 << 30).contains(&working), "the working set is {working}");
                Ok(())
            },
        ),
        case(
            "use, RSS and page faults are told too",
            "total memory in use, anonymous memory, page faults",
            |run: Run| async move {
                let id = busy(&run).await?;
                let memory = stats(&run, &id).await?.memory.unwrap_or_default();
                let (used, rss) = (value(&memory.usage_bytes), value(&memory.rss_bytes));
                ensure!(rss > 4 << 20 && used >= rss, "rss is {rss} and usage {used}");
                ensure!(value(&memory.page_faults) > 0, "no page faults");
                Ok(())
            },
        ),
        case(
            "what is available is the limit less the working set",
            "available memory is the memory limit - workingSetBytes",
            |run: Run| async move {
                let change = |config: &mut v1::ContainerConfig| {
                    resources(config).memory_limit_in_bytes = 64 << 20;
                };
                let id = run.shared().await?.start(change).await?;
                let memory = stats(&run, &id).await?.memory.unwrap_or_default();
                let sum = value(&memory.available_bytes) + value(&memory.working_set_bytes);
                same("available and working set together", sum, 64 << 20)
            },
        ),
        case(
            "what the container has written is told, and on which file system",
            "usage of the writable layer",
            |run: Run| async move {
                let id = busy(&run).await?;
                let what = "the bytes that it has written";
                run.until(what, async || {
                    let layer = stats(&run, &id).await?.writable_layer.unwrap_or_default();
                    let mountpoint = layer.fs_id.unwrap_or_default().mountpoint;
                    let told = layer.timestamp > 0 && mountpoint.starts_with('/');
                    Ok((told && value(&layer.used_bytes) >= 4_000_000).then_some(()))
                })
                .await
            },
        ),
        case(
            "the statistics name the container",
            "id, metadata, labels and annotations of the container",
            |run: Run| async move {
                let pod = run.shared().await?;
                let id = pod.start(|config| config.annotations = labels(&[("note", "x")])).await?;
                let attributes = stats(&run, &id).await?.attributes.unwrap_or_default();
                let status = run.status(&id).await?;
                same("the id", attributes.id, status.id)?;
                same("metadata", attributes.metadata, status.metadata)?;
                same("labels", attributes.labels, status.labels)?;
                same("annotations", attributes.annotations, status.annotations)
            },
        ),
        case(
            "ContainerStats of a container that is not there is NotFound",
            "if the container does not exist, the call returns an error",
            |run: Run| async move { refused(stats(&run, NOBODY).await, &[Code::NotFound]).map(drop) },
        ),
    ]
}
