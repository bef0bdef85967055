//! CreateContainer: limits.

use pintle_integration::read_cgroup_file;

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "limits stand in the container's cgroup",
            "CPU period, quota and shares, memory limit, cpuset, in the kernel's units",
            |run: Run| async move {
                let id = run
                    .shared()
                    .await?
                    .start(|config| {
                        let wanted = resources(config);
                        (wanted.cpu_period, wanted.cpu_quota, wanted.cpu_shares) = (50_000, 25_000, 512);
                        (wanted.memory_limit_in_bytes, wanted.cpuset_cpus) = (64 << 20, "0".to_owned());
                    })
                    .await?;
                let pid = run.pid(&id).await?;
                let memory = read_cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max");
                same("memory", memory.as_str(), "67108864")?;
                let quota = read_cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
                ensure!(quota.starts_with("25000"), "the quota is {quota}");
                let cpus = read_cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus");
                same("cpuset", cpus.as_str(), "0")
            },
        ),
        case(
            "the score for the OOM killer is set",
            "oom_score_adj adjusts the oom-killer score",
            |run: Run| async move {
                let change = |config: &mut v1::ContainerConfig| resources(config).oom_score_adj = 500;
                let text = run.shared().await?.prints("cat /proc/self/oom_score_adj", change).await?;
                same("the score", text.as_str(), "500")
            },
        ),
        case("limits that cannot be are refused", "the kernel has no such limits", |run: Run| async move {
            let pod = run.shared().await?;
            let bad: [fn(&mut v1::LinuxContainerResources); 3] = [
                |wanted| wanted.cpuset_cpus = "a".to_owned(),
                |wanted| wanted.memory_limit_in_bytes = 1,
                |wanted| (wanted.cpu_period, wanted.cpu_quota) = (1, 1),
            ];
            for change in bad {
                let mut config = pod.container();
                change(resources(&mut config));
                fails(pod.try_create(config).await)?;
            }
            Ok(())
        })
        .containerd(
            "it was not refused",
            "containerd fails at StartContainer; Pintle is right to say so at once",
        ),
    ]
}
