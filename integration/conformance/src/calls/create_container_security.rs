//! CreateContainer: the security context.

use super::prelude::*;

const CODE: &str = "containerd 1.6 refuses it too, with Unknown";

pub(super) fn cases() -> Vec<Case> {
    let mut all = identity();
    all.extend(powers());
    all.extend(files());
    all.extend(namespace_cases());
    all
}

fn identity() -> Vec<Case> {
    vec![
        case(
            "user, group and groups are those that are asked for",
            "UID, GID and list of groups of the first process",
            |run: Run| async move {
                let script = "echo $(id -u) $(id -g); grep Groups /proc/self/status";
                let text = run
                    .shared()
                    .await?
                    .prints(script, |config| {
                        let wanted = security(config);
                        (wanted.run_as_user, wanted.run_as_group) = (number(1234), number(2345));
                        wanted.supplemental_groups = vec![3456, 4567];
                    })
                    .await?;
                let words: Vec<&str> = text.split_whitespace().collect();
                same("user and group", words.get(..2), Some(&["1234", "2345"][..]))?;
                let groups: Vec<&str> = words.iter().skip(3).copied().collect();
                ensure!(groups.contains(&"3456") && groups.contains(&"4567"), "the groups are {groups:?}");
                Ok(())
            },
        ),
        case(
            "a user name is looked up in the image",
            "the user must exist in the image's /etc/passwd and be resolved there",
            |run: Run| async move {
                let change =
                    |config: &mut v1::ContainerConfig| security(config).run_as_username = "web".to_owned();
                let text = run.shared().await?.prints("echo $(id -u) $(id -g)", change).await?;
                same("user and group", text.as_str(), "1000 1000")
            },
        ),
        case(
            "a user name that the image does not know is refused",
            "otherwise the runtime must error",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                security(&mut config).run_as_username = "nobody-knows".to_owned();
                fails(pod.try_create(config).await).map(drop)
            },
        ),
        case(
            "a container's group without a user is refused",
            "run_as_group only with run_as_user or run_as_username; otherwise the runtime must error",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                security(&mut config).run_as_group = number(1000);
                refused(pod.try_create(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("Unknown", CODE),
        case(
            "user and user name exclude each other",
            "only one of run_as_user and run_as_username can be specified at a time",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                let wanted = security(&mut config);
                (wanted.run_as_user, wanted.run_as_username) = (number(1000), "web".to_owned());
                refused(pod.try_create(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("it was not refused", "containerd takes the number and ignores the name; Pintle is right"),
        case(
            "groups of the image are added, unless the policy is strict",
            "Merge: merged with the groups of /etc/group; Strict: instead of them",
            |run: Run| async move {
                let pod = run.shared().await?;
                for (policy, wanted) in [(0, true), (1, false)] {
                    let change = |config: &mut v1::ContainerConfig| {
                        let security = security(config);
                        security.run_as_username = "web".to_owned();
                        security.supplemental_groups = vec![3456];
                        security.supplemental_groups_policy = policy;
                    };
                    let text = pod.prints("grep Groups /proc/self/status", change).await?;
                    let groups: Vec<&str> = text.split_whitespace().skip(1).collect();
                    same("staff is a group", groups.contains(&"50"), wanted)?;
                    ensure!(groups.contains(&"3456"), "the groups are {groups:?}");
                }
                Ok(())
            },
        )
        .containerd(
            "staff is a group",
            "the policy came with Kubernetes 1.31; containerd 1.6 ignores it, and merges the groups of a user only when it \
             is named by number",
        ),
    ]
}

fn powers() -> Vec<Case> {
    let effective = "grep CapEff /proc/self/status | cut -f2";
    let has =
        |text: &str, bit: u32| u64::from_str_radix(text.trim(), 16).is_ok_and(|set| set >> bit & 1 == 1);
    vec![
        case(
            "capabilities are added and dropped by name, with or without CAP_, or all",
            "capabilities to add; dropping one drops it from all sets",
            move |run: Run| async move {
                let (net_admin, chown) = (12, 0);
                let pod = run.shared().await?;
                let plain = pod.prints(effective, |_| {}).await?;
                ensure!(!has(&plain, net_admin) && has(&plain, chown), "the default is {plain}");
                let change = |config: &mut v1::ContainerConfig| {
                    let wanted = capabilities(config);
                    (wanted.add_capabilities, wanted.drop_capabilities) =
                        (words(&["NET_ADMIN"]), words(&["CHOWN"]));
                };
                let text = pod.prints(effective, change).await?;
                ensure!(has(&text, net_admin) && !has(&text, chown), "they are {text}");
                let none = |config: &mut v1::ContainerConfig| {
                    capabilities(config).drop_capabilities = words(&["ALL"]);
                };
                same("without any", pod.prints(effective, none).await?.as_str(), "0000000000000000")
            },
        ),
        case(
            "ambient capabilities stay with a user who is not root",
            "a capability in add_ambient_capabilities gets added to all sets, the ambient one too",
            move |run: Run| async move {
                const NET_BIND_SERVICE: u32 = 10;
                let change = |config: &mut v1::ContainerConfig| {
                    security(config).run_as_user = number(1000);
                    capabilities(config).add_ambient_capabilities = words(&["NET_BIND_SERVICE"]);
                };
                let text = run.shared().await?.prints(effective, change).await?;
                ensure!(has(&text, NET_BIND_SERVICE), "they are {text}");
                Ok(())
            },
        )
        .containerd("they are", "the field came with Kubernetes 1.23 and containerd 1.7"),
        case(
            "a capability that there is not is refused",
            "list of capabilities to add",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                capabilities(&mut config).add_capabilities = words(&["FLY"]);
                fails(pod.try_create(config).await).map(drop)
            },
        )
        .containerd(
            "it was not refused",
            "containerd asks runc, which leaves out what it does not know; Pintle is right",
        ),
        case(
            "a privileged container may everything and sees every device",
            "all capabilities; sysfs and procfs read-write; nothing masked; all devices; no seccomp",
            |run: Run| async move {
                let pod = run.networked(|config| pod_security(config).privileged = true).await?;
                let script = "grep Seccomp: /proc/self/status | cut -f2; test -e /dev/kmsg && echo device; \
                              grep -q ' /sys [a-z]* ro' /proc/mounts || echo sys; test -w /proc/sys/kernel/panic && echo proc";
                let text = pod.prints(script, |config| security(config).privileged = true).await?;
                same("what it printed", text.as_str(), "0\ndevice\nsys\nproc")
            },
        )
        .containerd("0\\ndevice\\nproc", "its /sys is read-only here, as the infra container has mounted it first; the text says read-write"),
        case(
            "a privileged container needs a privileged sandbox",
            "if a privileged container is to be executed within the sandbox, privileged must be true",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                security(&mut config).privileged = true;
                fails(pod.try_create(config).await).map(drop)
            },
        ),
        case(
            "no_new_privs is set when it is asked for",
            "no_new_privs defines if the flag should be set on the container",
            |run: Run| async move {
                let pod = run.shared().await?;
                let script = "grep NoNewPrivs /proc/self/status | cut -f2";
                same("without", pod.prints(script, |_| {}).await?.as_str(), "0")?;
                let text = pod.prints(script, |config| security(config).no_new_privs = true).await?;
                same("with", text.as_str(), "1")
            },
        ),
        case(
            "a seccomp profile is the runtime's, none, or a file of the node's",
            "RuntimeDefault, Unconfined, Localhost with an absolute path",
            seccomp,
        ),
        case(
            "a seccomp profile that is not there is refused",
            "it must be an absolute path to the profile",
            |run: Run| async move {
                let pod = run.shared().await?;
                for path in ["/no/such.json", "relative.json", ""] {
                    let mut config = pod.container();
                    let local = v1::security_profile::ProfileType::Localhost;
                    security(&mut config).seccomp = Some(profile(local, path));
                    fails(pod.try_create(config).await)?;
                }
                Ok(())
            },
        ),
        case(
            "an AppArmor profile that cannot be had is refused",
            "a pre-defined profile on the node should be used; where there is none, it cannot be",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                let local = v1::security_profile::ProfileType::Localhost;
                security(&mut config).apparmor = Some(profile(local, "no-such-profile"));
                fails(pod.try_create(config).await).map(drop)
            },
        )
        .not_yet(),
    ]
}

async fn seccomp(run: Run) -> Outcome {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let pod = run.shared().await?;
    let script = "grep Seccomp: /proc/self/status | cut -f2; mkdir /tmp/x 2>/dev/null && echo made";
    let deny = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let path = file(&run.dir("seccomp")?, "deny.json", deny)?;
    for (wanted, text) in [
        (profile(RuntimeDefault, ""), "2\nmade"),
        (profile(Unconfined, ""), "0\nmade"),
        (profile(Localhost, &path.to_string_lossy()), "2"),
    ] {
        let script = format!("{script}; true");
        let found = pod.prints(&script, |config| security(config).seccomp = Some(wanted)).await?;
        same("what it printed", found.as_str(), text)?;
    }
    Ok(())
}

fn files() -> Vec<Case> {
    vec![
        case(
            "a read-only root cannot be written to",
            "if readonly_rootfs is set, the root filesystem of the container is read-only",
            |run: Run| async move {
                let pod = run.shared().await?;
                let script = "touch /x 2>/dev/null && echo written || echo refused";
                same("without", pod.prints(script, |_| {}).await?.as_str(), "written")?;
                let text = pod.prints(script, |config| security(config).readonly_rootfs = true).await?;
                same("with", text.as_str(), "refused")
            },
        ),
        case(
            "masked paths cannot be read and read-only ones not written",
            "a slice of paths that should be masked, or set as read-only",
            |run: Run| async move {
                let script = "test -s /etc/passwd || echo masked; touch /etc/x 2>/dev/null || echo refused; \
                              ls /proc/irq >/dev/null && echo open";
                let text = run
                    .shared()
                    .await?
                    .prints(script, |config| {
                        let wanted = security(config);
                        wanted.masked_paths = words(&["/etc/passwd", "/no/such"]);
                        wanted.readonly_paths = words(&["/etc", "/no/such"]);
                    })
                    .await?;
                same("what it printed", text.as_str(), "masked\nrefused\nopen")
            },
        ),
    ]
}

fn namespace_cases() -> Vec<Case> {
    vec![
        case(
            "a container joins the processes of its target",
            "a container with a PID namespace of TARGET expects to view all processes that the target can",
            |run: Run| async move {
                let pod = run.shared().await?;
                let target = pod.start(|config| config.command = words(&["/bin/sleep", "7654"])).await?;
                let join = |config: &mut v1::ContainerConfig| {
                    let options = namespaces(config);
                    options.pid = v1::NamespaceMode::Target.into();
                    options.target_id.clone_from(&target);
                };
                let text = pod.prints("ps", join).await?;
                ensure!(text.contains("sleep 7654"), "the target's process is not in {text:?}");
                Ok(())
            },
        ),
        case(
            "a target that is not there is refused",
            "target_id must refer to a container previously created in the same pod",
            |run: Run| async move {
                let pod = run.shared().await?;
                let mut config = pod.container();
                let options = namespaces(&mut config);
                options.pid = v1::NamespaceMode::Target.into();
                options.target_id = super::NOBODY.to_owned();
                fails(pod.try_create(config).await).map(drop)
            },
        ),
    ]
}
