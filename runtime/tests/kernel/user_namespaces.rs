//! Pods whose users are not the node's: what root of such a pod is, and what it can do to the node.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use pintle_cri_api::v1::{self as cri, runtime_service_server::RuntimeService as _};
use tonic::{Code, Request, Status};

use crate::support::{Node, on_a_node, own_pids, security, shell};

/// The node's number for the pods' root, and how many follow.
const FIRST: u32 = 200_000;
const COUNT: u32 = 65_536;

fn mapping() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id: FIRST, container_id: 0, length: COUNT }]
}

fn users() -> cri::UserNamespace {
    cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() }
}

fn options() -> cri::NamespaceOption {
    cri::NamespaceOption { userns_options: Some(users()), ..own_pids() }
}

fn pod_security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

async fn pod(node: &Node, name: &str) -> String {
    node.try_pod(name, |config| pod_security(config).namespace_options = Some(options())).await.unwrap()
}

fn volume(source: &Path, destination: &str) -> cri::Mount {
    cri::Mount {
        host_path: source.to_string_lossy().into_owned(),
        container_path: destination.to_owned(),
        uid_mappings: mapping(),
        gid_mappings: mapping(),
        ..Default::default()
    }
}

async fn container(
    node: &Node,
    pod: &str,
    name: &str,
    change: impl FnOnce(&mut cri::ContainerConfig),
) -> Result<String, Status> {
    let id = node
        .try_container(pod, name, |config| {
            config.command = shell("sleep 1000");
            security(config).namespace_options = Some(options());
            change(config);
        })
        .await?;
    node.start(&id).await?;
    Ok(id)
}

/// The node's number for who runs a container's first process.
async fn owner_of(node: &Node, id: &str) -> u32 {
    let pid = node.info(id).await["pid"].as_i64().unwrap();
    fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

#[test]
fn r01_root_of_a_pod_with_users_of_its_own_is_nobody_on_the_node() {
    on_a_node(|node| async {
        let pod = pod(&node, "p").await;
        let id = container(&node, &pod, "c", |_| {}).await.unwrap();
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let inside = node.output(&id, "readlink /proc/self/ns/user").await;
        assert_ne!(inside, own.to_string_lossy());
        assert_eq!(node.output(&id, "readlink /proc/1/ns/user").await, inside, "an exec is in the same one");
        let map = node.output(&id, "cat /proc/self/uid_map").await;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
        assert_eq!(node.output(&id, "id -u; id -g").await, "0\n0");
        assert_eq!(owner_of(&node, &id).await, FIRST);
        let (status, info) = node.pod_status(&pod).await;
        let told = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(told.userns_options, Some(users()));
        let infra = info["pid"].as_i64().unwrap_or_default();
        if infra > 0 {
            assert_eq!(fs::metadata(format!("/proc/{infra}")).unwrap().uid(), FIRST);
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn r01_the_files_of_the_image_and_of_volumes_belong_to_the_pods_users() {
    on_a_node(|node| async {
        let (open, closed) = (node.path("volume"), node.path("closed/volume"));
        for dir in [&open, &closed] {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("of-root"), "root's").unwrap();
            fs::set_permissions(dir.join("of-root"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(dir.join("of-1000"), "user's").unwrap();
            std::os::unix::fs::chown(dir.join("of-1000"), Some(1000), Some(1000)).unwrap();
        }
        // As a kubelet's directories are.
        fs::set_permissions(node.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        let pod = pod(&node, "p").await;
        let id = container(&node, &pod, "c", |config| {
            config.mounts = vec![volume(&open, "/open"), volume(&closed, "/closed/in/here")];
            config.mounts.push(volume(&open.join("of-1000"), "/one-file"));
        })
        .await
        .unwrap();
        assert_eq!(node.output(&id, "stat -c %u:%g /bin/busybox /etc/passwd").await, "0:0\n0:0");
        for dir in ["/open", "/closed/in/here"] {
            let owners = node.output(&id, &format!("stat -c %u:%g {dir}/of-root {dir}/of-1000")).await;
            assert_eq!(owners, "0:0\n1000:1000", "{dir}");
            assert_eq!(node.output(&id, &format!("cat {dir}/of-root")).await, "root's");
        }
        assert_eq!(node.output(&id, "stat -c %u /one-file").await, "1000");
        node.output(&id, "echo new > /open/made && chown 5:6 /open/made && echo x >> /etc/passwd").await;
        let made = fs::metadata(open.join("made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (5, 6), "on the node it is whose the pod says it is");
        for file in ["/etc/resolv.conf", "/etc/hostname", "/dev/shm"] {
            assert_eq!(node.output(&id, &format!("stat -c %u {file}")).await, "0", "{file}");
        }
        node.output(&id, "echo x > /dev/shm/x && echo x > /dev/null && head -c 1 /dev/urandom > /tmp/x")
            .await;
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn root_of_such_a_pod_can_do_nothing_to_the_node() {
    on_a_node(|node| async {
        let dir = node.path("secret");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("key"), "secret").unwrap();
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let pod = node
            .try_pod("p", |config| {
                let security = pod_security(config);
                security.privileged = true;
                security.namespace_options =
                    Some(cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..options() });
            })
            .await
            .unwrap();
        let id = container(&node, &pod, "c", |config| {
            // Shown as the node sees it, to everything that a privileged container has.
            let bare = volume(&dir, "/secret");
            config.mounts.push(cri::Mount { uid_mappings: vec![], gid_mappings: vec![], ..bare });
            let security = security(config);
            security.privileged = true;
            security.namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
        })
        .await
        .unwrap();
        for attempt in [
            "cat /secret/key",
            "echo x > /secret/key",
            "chown 0:0 /secret/key",
            "chmod 666 /secret/key",
            "rm /secret/key",
            "touch /secret/new",
            "mknod /tmp/disk b 8 0",
            "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
            "echo 1 > /proc/sys/kernel/panic",
            "echo 1 > /proc/sys/vm/drop_caches",
            "echo h > /proc/sysrq-trigger",
            "dmesg -c",
            "mount -o remount,rw /proc/sys/kernel",
            "ulimit -n 100000000",
            "ulimit -r 99",
        ] {
            let done = node.exec(&id, attempt, 20).await.unwrap();
            assert_ne!(done.exit_code, 0, "{attempt}: {}", String::from_utf8_lossy(&done.stdout));
        }
        assert_eq!(fs::read_to_string(dir.join("key")).unwrap(), "secret");
        // It says so and succeeds all the same.
        node.exec(&id, "date -s 2000-01-01", 20).await.unwrap();
        assert!(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() > 1_700_000_000, "the clock was set");
        let infra = node.output(&id, "cat /proc/1/comm").await;
        assert_eq!(infra, "pause", "the pod's own processes are all it sees");
        // What is its own it may do.
        node.output(
            &id,
            "hostname changed && ip link add d0 type dummy 2>/dev/null; ip addr add 10.9.9.9/32 dev lo",
        )
        .await;
        node.output(&id, "mkdir -p /tmp/m && mount -t tmpfs t /tmp/m").await;
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn kernel_parameters_identity_and_filters_work_with_users_of_the_pods_own() {
    on_a_node(|node| async {
        let made = node.try_pod("p", |config| {
            pod_security(config).namespace_options = Some(options());
            let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
            sysctls.insert("net.core.somaxconn".to_owned(), "77".to_owned());
            sysctls.insert("kernel.shmmni".to_owned(), "123".to_owned());
            sysctls.insert("fs.mqueue.msg_max".to_owned(), "9".to_owned());
        });
        let pod = made.await.unwrap();
        let id = container(&node, &pod, "c", |config| {
            let security = security(config);
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
            security.run_as_group = Some(cri::Int64Value { value: 2000 });
            security.supplemental_groups = vec![3000];
            security.readonly_rootfs = true;
            security.seccomp = Some(cri::SecurityProfile::default());
            config.command = shell("echo hello > /dev/stdout; sleep 1000");
        })
        .await
        .unwrap();
        let read = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max";
        assert_eq!(node.output(&id, read).await, "77\n123\n9");
        assert_eq!(node.output(&id, "id -u; id -g; id -G").await, "1000\n2000\n2000 3000");
        assert_eq!(owner_of(&node, &id).await, FIRST + 1000);
        assert_eq!(node.log("p", "c"), "hello");
        assert_eq!(node.output(&id, "grep -c 'Seccomp:.2' /proc/self/status").await, "1");
        assert_ne!(node.exec(&id, "echo x > /x", 20).await.unwrap().exit_code, 0);
        let mounts = node.output(&id, "cat /proc/self/mountinfo").await;
        for path in ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/dev/shm"] {
            assert!(mounts.contains(&format!(" {path} ")), "{path}: {mounts}");
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn containers_of_a_pod_with_users_of_its_own_are_made_by_the_next_engine_too() {
    on_a_node(|mut node| async {
        let pod = pod(&node, "p").await;
        let before = container(&node, &pod, "before", |_| {}).await.unwrap();
        node.drop_engine().await;
        node.open().await;
        let after = container(&node, &pod, "after", |_| {}).await.unwrap();
        let space = "readlink /proc/self/ns/user";
        assert_eq!(node.output(&before, space).await, node.output(&after, space).await);
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn what_cannot_be_mapped_is_refused_by_its_field() {
    on_a_node(|node| async {
        let features = node.engine().as_ref().status(Request::new(cri::StatusRequest::default()));
        let handlers = features.await.unwrap().into_inner().runtime_handlers;
        assert!(handlers[0].features.unwrap().user_namespaces, "this node has them");
        let shared = node.try_pod("p", |config| {
            let network = cri::NamespaceMode::Node.into();
            pod_security(config).namespace_options = Some(cri::NamespaceOption { network, ..options() });
        });
        assert_eq!(shared.await.unwrap_err().code(), Code::InvalidArgument);
        let (plain, mapped) = (node.pod("plain").await, pod(&node, "mapped").await);
        let other = |config: &mut cri::ContainerConfig| {
            let options = security(config).namespace_options.as_mut().unwrap();
            options.userns_options.as_mut().unwrap().uids[0].host_id = 500_000;
        };
        let dir = node.path("dir");
        fs::create_dir(&dir).unwrap();
        let refused = [
            (container(&node, &plain, "c", |_| {}).await, "userns_options"),
            (container(&node, &mapped, "c", other).await, "userns_options"),
            (
                node.try_container(&plain, "c", |config| config.mounts.push(volume(&dir, "/v"))).await,
                "mounts.uidMappings",
            ),
            (
                container(&node, &mapped, "c", |config| {
                    config.mounts.push(volume(Path::new("/proc/self"), "/v"));
                })
                .await,
                "/proc",
            ),
        ];
        for (result, field) in refused {
            assert!(result.as_ref().unwrap_err().message().contains(field), "{result:?}");
        }
        node.remove_pod(&plain).await;
        node.remove_pod(&mapped).await;
        node
    });
}
