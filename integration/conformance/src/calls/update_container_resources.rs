//! UpdateContainerResources: limits of a running container.

use pintle_integration::read_cgroup_file;

use super::{NOBODY, prelude::*};

async fn update(run: &Run, id: &str, wanted: v1::LinuxContainerResources) -> Result<(), tonic::Status> {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(wanted),
        ..Default::default()
    };
    run.cri().update_container_resources(request).await.map(drop)
}

fn memory(limit: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources { memory_limit_in_bytes: limit, ..Default::default() }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "new limits hold at once, and those that are not named stay",
            "updates the container's resources synchronously; 0 is not specified",
            |run: Run| async move {
                let id = run
                    .shared()
                    .await?
                    .start(|config| {
                        let wanted = resources(config);
                        (wanted.memory_limit_in_bytes, wanted.cpu_shares) = (64 << 20, 512);
                    })
                    .await?;
                update(&run, &id, memory(128 << 20)).await?;
                let quota = v1::LinuxContainerResources {
                    cpu_quota: 30_000,
                    cpu_period: 60_000,
                    ..Default::default()
                };
                update(&run, &id, quota).await?;
                let pid = run.pid(&id).await?;
                let read = |controller: &str, v1: &str, v2: &str| read_cgroup_file(pid, controller, v1, v2);
                let limit = read("memory", "memory.limit_in_bytes", "memory.max");
                same("memory", limit.as_str(), "134217728")?;
                let quota = read("cpu", "cpu.cfs_quota_us", "cpu.max");
                ensure!(quota.starts_with("30000"), "the quota is {quota}");
                let shares = read("cpu", "cpu.shares", "cpu.weight");
                ensure!(["512", "20", "59"].contains(&shares.as_str()), "the shares are {shares}");
                Ok(())
            },
        ),
        case(
            "a container that was only made takes new limits",
            "the kubelet may resize a container at any time",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                update(&run, &id, memory(128 << 20)).await?;
                run.start(&id).await?;
                let limit = run.says(&id, "cat /proc/self/oom_score_adj").await;
                ensure!(limit.is_ok(), "it does not run");
                let pid = run.pid(&id).await?;
                let limit = read_cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max");
                same("memory", limit.as_str(), "134217728")
            },
        ),
        case(
            "the status tells the new limits",
            "resource limits configuration of the container",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| resources(config).cpu_shares = 512).await?;
                update(&run, &id, memory(128 << 20)).await?;
                let found = run.status(&id).await?.resources.and_then(|r| r.linux).unwrap_or_default();
                let told = (found.memory_limit_in_bytes, found.cpu_shares);
                same("memory and shares", told, (128 << 20, 512))
            },
        ),
        case(
            "UpdateContainerResources of a container that is not there is NotFound",
            "id of the container to update",
            |run: Run| async move {
                refused(update(&run, NOBODY, memory(64 << 20)).await, &[Code::NotFound]).map(drop)
            },
        ),
        case(
            "limits that cannot be are refused, and the old ones stay",
            "if the runtime fails to transactionally update the resources, an error is returned",
            |run: Run| async move {
                let change = |config: &mut v1::ContainerConfig| {
                    resources(config).memory_limit_in_bytes = 64 << 20;
                };
                let id = run.shared().await?.start(change).await?;
                let cpuset_cpus = "4000-4001".to_owned();
                fails(
                    update(&run, &id, v1::LinuxContainerResources { cpuset_cpus, ..memory(96 << 20) }).await,
                )?;
                let pid = run.pid(&id).await?;
                let limit = read_cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max");
                same("memory", limit.as_str(), "67108864")
            },
        ),
        case(
            "a container that has ended takes no limits",
            "there is nothing to limit",
            |run: Run| async move {
                let id = run.shared().await?.start(|config| config.command = words(&["/bin/true"])).await?;
                run.ended(&id).await?;
                refused(update(&run, &id, memory(64 << 20)).await, &[Code::FailedPrecondition]).map(drop)
            },
        )
        .containerd(
            "it was not refused",
            "containerd 1.6 keeps the limits for nobody; the text does not say, and Pintle tells the client",
        ),
    ]
}
