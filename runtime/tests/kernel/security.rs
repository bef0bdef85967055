//! What a security context asks for, as it looks from inside: kernel parameters, namespaces, identity, capabilities, paths.

use pintle_cri_api::v1 as cri;
use tonic::Code;

use crate::support::{Node, on_a_node, own_pids, security, shell};

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn sysctl(config: &mut cri::PodSandboxConfig, name: &str, value: &str) {
    linux(config).sysctls.insert(name.to_owned(), value.to_owned());
}

fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    linux(config).security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

#[test]
fn kernel_parameters_are_the_pods_alone() {
    on_a_node(|node| async {
        let of_node = || std::fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
        let before = of_node();
        let pod = node
            .try_pod("tuned", |config| {
                sysctl(config, "net.ipv4.ip_unprivileged_port_start", "7");
                sysctl(config, "net/ipv4/conf/eth0/forwarding", "0");
                sysctl(config, "net.core.somaxconn", "77");
                sysctl(config, "kernel.shmmni", "123");
                sysctl(config, "kernel/sem", "300\t32000 32 128");
                sysctl(config, "fs.mqueue.msg_max", "33");
                sysctl(config, "kernel.domainname", "tuned.test");
            })
            .await
            .unwrap();
        let id = node.script(&pod, "c", "sleep 1000").await;
        for (file, value) in [
            ("net/ipv4/ip_unprivileged_port_start", "7"),
            ("net/ipv4/conf/eth0/forwarding", "0"),
            ("net/core/somaxconn", "77"),
            ("kernel/shmmni", "123"),
            ("kernel/sem", "300\t32000\t32\t128"),
            ("fs/mqueue/msg_max", "33"),
            ("kernel/domainname", "tuned.test"),
        ] {
            assert_eq!(node.output(&id, &format!("cat /proc/sys/{file}")).await, value, "{file}");
        }
        let other = node.pod("plain").await;
        let plain = node.script(&other, "c", "sleep 1000").await;
        assert_eq!(node.output(&plain, "cat /proc/sys/kernel/shmmni").await, before.trim());
        assert_eq!(of_node(), before);
        node.remove_pod(&pod).await;
        node.remove_pod(&other).await;
        node
    });
}

#[test]
fn a_kernel_parameter_that_cannot_be_is_named_and_leaves_nothing() {
    on_a_node(|node| async {
        for (name, value) in [
            ("vm.swappiness", "1"),
            ("kernel.panic", "1"),
            ("net.ipv4.there_is_none", "1"),
            ("net.core.somaxconn", "many"),
            ("kernel.msgmax", "-5"),
        ] {
            let error = node.try_pod("p", |config| sysctl(config, name, value)).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(name), "{error}");
        }
        let on_the_nodes = |config: &mut cri::PodSandboxConfig| {
            namespaces(config).network = cri::NamespaceMode::Node.into();
            sysctl(config, "net.core.somaxconn", "77");
        };
        let error = node.try_pod("p", on_the_nodes).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        node
    });
}

async fn with_pids(
    node: &Node,
    pod: &str,
    name: &str,
    options: cri::NamespaceOption,
) -> Result<String, tonic::Status> {
    let made = node.try_container(pod, name, |config| {
        config.command = shell("sleep 1000");
        security(config).namespace_options = Some(options);
    });
    let id = made.await?;
    node.start(&id).await?;
    Ok(id)
}

#[test]
fn a_container_sees_the_processes_of_its_target_and_no_others() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let target = with_pids(&node, &pod, "target", own_pids()).await.unwrap();
        let other = with_pids(&node, &pod, "other", own_pids()).await.unwrap();
        let aim = |target: &str| cri::NamespaceOption {
            pid: cri::NamespaceMode::Target.into(),
            target_id: target.to_owned(),
            ..Default::default()
        };
        let debugger = with_pids(&node, &pod, "debugger", aim(&target)).await.unwrap();
        let space = "readlink /proc/self/ns/pid";
        let spaces = [&target, &other, &debugger].map(|id| node.output(id, space));
        let [of_target, of_other, of_debugger] =
            <[String; 3]>::try_from(futures_util::future::join_all(spaces).await).unwrap();
        assert_eq!(of_debugger, of_target);
        assert_ne!(of_other, of_target);
        assert_eq!(node.output(&debugger, "cat /proc/1/comm").await, "sleep");
        let code = |result: Result<String, tonic::Status>| result.unwrap_err().code();
        assert_eq!(code(with_pids(&node, &pod, "a", aim("nobody")).await), Code::NotFound);
        assert_eq!(code(with_pids(&node, &pod, "b", aim("")).await), Code::InvalidArgument);
        let foreign = node.pod("foreign").await;
        assert_eq!(code(with_pids(&node, &foreign, "c", aim(&target)).await), Code::FailedPrecondition);
        node.stop(&target, 0).await.unwrap();
        assert_eq!(code(with_pids(&node, &pod, "d", aim(&target)).await), Code::FailedPrecondition);
        node.remove_pod(&pod).await;
        node.remove_pod(&foreign).await;
        node
    });
}

#[test]
fn each_namespace_is_the_containers_the_pods_or_the_nodes_as_asked() {
    on_a_node(|node| async {
        let links = ["net", "ipc", "pid", "uts", "mnt"];
        let own = links.map(|kind| std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap());
        let all = |mode: cri::NamespaceMode| cri::NamespaceOption {
            network: if mode == cri::NamespaceMode::Node { mode } else { cri::NamespaceMode::Pod }.into(),
            ipc: if mode == cri::NamespaceMode::Node { mode } else { cri::NamespaceMode::Pod }.into(),
            pid: mode.into(),
            ..Default::default()
        };
        for (mode, shared_with_node, shared_by_two) in [
            (cri::NamespaceMode::Node, [true, true, true, true, false], [true, true, true, true, false]),
            (cri::NamespaceMode::Pod, [false; 5], [true, true, true, true, false]),
            (cri::NamespaceMode::Container, [false; 5], [true, true, false, true, false]),
        ] {
            let name = format!("{mode:?}").to_lowercase();
            let pod = node.try_pod(&name, |config| *namespaces(config) = all(mode)).await.unwrap();
            let mut seen = Vec::new();
            for name in ["a", "b"] {
                let id = with_pids(&node, &pod, name, all(mode)).await.unwrap();
                let mut of = Vec::new();
                for kind in links {
                    of.push(node.output(&id, &format!("readlink /proc/self/ns/{kind}")).await);
                }
                seen.push(of);
            }
            for (at, kind) in links.iter().enumerate() {
                let of_node = own[at].to_string_lossy();
                assert_eq!(seen[0][at] == of_node, shared_with_node[at], "{kind} of {mode:?}");
                assert_eq!(seen[0][at] == seen[1][at], shared_by_two[at], "{kind} of {mode:?}");
            }
            node.remove_pod(&pod).await;
        }
        node
    });
}

#[test]
fn a_namespace_of_the_nodes_needs_a_pod_that_has_it() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let node_mode = i32::from(cri::NamespaceMode::Node);
        for (field, options) in [
            ("network", cri::NamespaceOption { network: node_mode, ..own_pids() }),
            ("ipc", cri::NamespaceOption { ipc: node_mode, ..own_pids() }),
            ("pid", cri::NamespaceOption { pid: node_mode, ..own_pids() }),
        ] {
            let error = with_pids(&node, &pod, "c", options).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(&format!("namespace_options.{field}")), "{error}");
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_user_without_rights_opens_its_standard_output_again() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let id = node
            .try_container(&pod, "c", |config| {
                security(config).run_as_user = Some(cri::Int64Value { value: 1000 });
                config.command = shell("echo out > /dev/stdout; echo err > /dev/stderr; sleep 1000");
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        crate::support::eventually("both are in the log", || {
            let log = node.log("p", "c");
            log.contains("out") && log.contains("err")
        })
        .await;
        assert_eq!(node.output(&id, "echo again > /dev/stdout").await, "again");
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn ambient_capabilities_reach_a_user_without_rights_and_its_execs() {
    on_a_node(|node| async {
        let pod = node.pod("p").await;
        let id = node
            .try_container(&pod, "c", |config| {
                let security = security(config);
                security.run_as_user = Some(cri::Int64Value { value: 1000 });
                security.capabilities = Some(cri::Capability {
                    drop_capabilities: vec!["ALL".to_owned()],
                    add_ambient_capabilities: vec!["CHOWN".to_owned()],
                    ..Default::default()
                });
                config.command = shell("grep ^Cap /proc/self/status; touch /tmp/f; sleep 1000");
            })
            .await
            .unwrap();
        node.start(&id).await.unwrap();
        crate::support::eventually("it tells", || node.log("p", "c").contains("CapAmb")).await;
        let expected = "CapInh:\t0000000000000001\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\n\
                        CapBnd:\t0000000000000001\nCapAmb:\t0000000000000001";
        assert!(node.log("p", "c").contains(expected), "{}", node.log("p", "c"));
        assert_eq!(node.output(&id, "grep ^Cap /proc/self/status").await, expected);
        node.remove_pod(&pod).await;
        node
    });
}
