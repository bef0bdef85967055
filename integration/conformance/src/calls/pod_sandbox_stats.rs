//! PodSandboxStats: what one pod uses.

use super::{NOBODY, prelude::*};

pub(super) async fn stats(run: &Run, id: &str) -> Result<v1::PodSandboxStats, tonic::Status> {
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
    Ok(run.cri().pod_sandbox_stats(request).await?.into_inner().stats.unwrap_or_default())
}

fn value(of: &Option<v1::UInt64Value>) -> u64 {
    of.as_ref().map_or(0, |value| value.value)
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "the pod's processor time, memory and processes are told, and those of its containers",
            "CPU, memory, process stats, stats of containers in the measured pod",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|config| config.command = shell("while true; do :; done")).await?;
                run.until("processor time", async || {
                    let cpu = stats(&run, &pod.id).await?.linux.and_then(|linux| linux.cpu);
                    Ok((value(&cpu.unwrap_or_default().usage_core_nano_seconds) > 1_000_000).then_some(()))
                })
                .await?;
                let linux = stats(&run, &pod.id).await?.linux.unwrap_or_default();
                let memory = linux.memory.unwrap_or_default();
                ensure!(
                    memory.timestamp > 0 && value(&memory.working_set_bytes) > 0,
                    "no memory: {memory:?}"
                );
                let processes = value(&linux.process.unwrap_or_default().process_count);
                ensure!(processes >= 1, "{processes} processes");
                let of = super::list_container_stats::ids(&linux.containers);
                same("the containers", of, vec![id])
            },
        ),
        case(
            "the pod's network is told by interface",
            "stats of the default interface, and of all others",
            |run: Run| async move {
                let pod = run.networked(|_| {}).await?;
                let ip = run.pod_status(&pod.id).await?.network.unwrap_or_default().ip;
                run.side().ground.run("busybox", &["ping", "-c", "2", "-i", "0.2", "-W", "5", &ip]);
                let network = stats(&run, &pod.id).await?.linux.and_then(|linux| linux.network);
                let network = network.unwrap_or_default();
                let first = network.default_interface.unwrap_or_default();
                ensure!(network.timestamp > 0, "the time is missing");
                same("the interface", first.name.as_str(), "eth0")?;
                let bytes = (value(&first.rx_bytes), value(&first.tx_bytes));
                ensure!(bytes.0 >= 84 && bytes.1 >= 84, "received and sent: {bytes:?}");
                Ok(())
            },
        )
        .containerd("the time is missing", "containerd 1.6 leaves it out; it must be > 0"),
        case(
            "the statistics name the pod",
            "id, metadata, labels and annotations of the pod sandbox",
            |run: Run| async move {
                let pod = run.pod_with(|config| config.annotations = labels(&[("note", "x")])).await?;
                let attributes = stats(&run, &pod.id).await?.attributes.unwrap_or_default();
                let status = run.pod_status(&pod.id).await?;
                same("the id", attributes.id, status.id)?;
                same("metadata", attributes.metadata, status.metadata)?;
                same("labels", attributes.labels, status.labels)?;
                same("annotations", attributes.annotations, status.annotations)
            },
        ),
        case(
            "PodSandboxStats of a sandbox that is not there is NotFound",
            "if the pod sandbox does not exist, the call returns an error",
            |run: Run| async move { refused(stats(&run, NOBODY).await, &[Code::NotFound]).map(drop) },
        ),
    ]
}
