//! Mounts: which way they travel, what is read-only below them, image volumes; devices by name (CDI).
//!
//! A shared file system is made in the test's own directory, as a node's `/` may well not be shared.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use pintle_cri_api::v1::{self as cri, MountPropagation as Travel};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use tonic::Code;

use crate::{
    image,
    support::{Node, on_a_node, security, shell},
};

/// A file system of the test's own, shared; gone with the value.
struct Shared(PathBuf);

impl Shared {
    fn new(node: &Node, name: &str) -> Self {
        let path = node.path(name);
        std::fs::create_dir_all(&path).unwrap();
        tmpfs(&path);
        mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        Self(path)
    }

    /// Mounts something on the node below it, with a file in it.
    fn mount_below(&self, name: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        tmpfs(&path);
        std::fs::write(path.join("mark"), name).unwrap();
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        while unmount(&self.0, UnmountFlags::DETACH).is_ok() {}
    }
}

fn tmpfs(path: &Path) {
    mount("test", path, "tmpfs", MountFlags::empty(), None).unwrap();
}

fn bind(host_path: &Path, container_path: &str, propagation: Travel) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

async fn privileged_pod(node: &Node, name: &str) -> String {
    let change = |config: &mut cri::PodSandboxConfig| {
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    };
    node.try_pod(name, change).await.unwrap()
}

/// A container that sleeps with these mounts; started.
async fn with_mounts(node: &Node, pod: &str, name: &str, mounts: Vec<cri::Mount>) -> String {
    let change = |config: &mut cri::ContainerConfig| {
        config.command = shell("sleep 1000");
        config.mounts = mounts;
        security(config).privileged = name.starts_with("privileged");
    };
    let id = node.try_container(pod, name, change).await.unwrap();
    node.start(&id).await.unwrap();
    id
}

#[test]
fn mounts_travel_both_ways_inwards_or_not_at_all_each_as_asked_for() {
    on_a_node(|node| async {
        let shared = Shared::new(&node, "shared");
        let pod = privileged_pod(&node, "travel").await;
        let volumes = || {
            vec![
                bind(&shared.0, "/both", Travel::PropagationBidirectional),
                bind(&shared.0, "/inwards", Travel::PropagationHostToContainer),
                bind(&shared.0, "/none", Travel::PropagationPrivate),
            ]
        };
        let both = with_mounts(&node, &pod, "privileged-both", volumes()).await;
        let plain = with_mounts(&node, &pod, "plain", volumes().split_off(1)).await;
        let none = with_mounts(&node, &pod, "none", volumes().split_off(2)).await;
        shared.mount_below("from-node");
        let sees = async |id: &str, path: &str| {
            node.exec(id, &format!("test -e {path}/from-node/mark"), 10).await.unwrap().exit_code == 0
        };
        assert!(sees(&both, "/both").await && sees(&both, "/inwards").await && !sees(&both, "/none").await);
        assert!(sees(&plain, "/inwards").await && !sees(&plain, "/none").await);
        assert!(!sees(&none, "/none").await);
        for (volume, travels) in [("both", true), ("inwards", false), ("none", false)] {
            let name = format!("from-{volume}");
            let script = format!(
                "mkdir -p /{volume}/{name} && mount -t tmpfs x /{volume}/{name} && touch /{volume}/{name}/mark"
            );
            node.output(&both, &script).await;
            assert_eq!(shared.has(&format!("{name}/mark")), travels, "{volume}");
        }
        // What the engine binds itself stays where it is, also in a container that shares.
        let listed = node.output(&both, "cat /proc/self/mountinfo").await;
        for path in ["/dev/shm", "/etc/resolv.conf", "/etc/hostname", "/none"] {
            let line = listed.lines().find(|line| line.split(' ').nth(4) == Some(path)).unwrap();
            assert!(!line.contains(" shared:") && !line.contains(" master:"), "{line}");
        }
        node.remove_pod(&pod).await;
        drop(shared);
        node
    });
}

#[test]
fn mounts_that_cannot_travel_are_refused_by_the_name_of_their_mount() {
    on_a_node(|node| async {
        let plain = node.path("plain");
        std::fs::create_dir_all(&plain).unwrap();
        tmpfs(&plain);
        mount_change(&plain, MountPropagationFlags::PRIVATE).unwrap();
        let pod = privileged_pod(&node, "stuck").await;
        for travel in [Travel::PropagationBidirectional, Travel::PropagationHostToContainer] {
            let made =
                node.try_container(&pod, "c", |config| config.mounts = vec![bind(&plain, "/data", travel)]);
            let refused = made.await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains(&text(&plain)), "{refused}");
            assert!(refused.message().contains("not a shared mount"), "{refused}");
        }
        node.remove_pod(&pod).await;
        unmount(&plain, UnmountFlags::DETACH).unwrap();
        node
    });
}

#[test]
fn recursively_read_only_means_the_mounts_below_too_and_plain_read_only_does_not() {
    on_a_node(|node| async {
        let top = Shared::new(&node, "top");
        top.mount_below("below");
        let pod = node.pod("rro").await;
        let read_only = |path: &str, recursive_read_only| cri::Mount {
            readonly: true,
            recursive_read_only,
            ..bind(&top.0, path, Travel::PropagationPrivate)
        };
        let id = with_mounts(&node, &pod, "c", vec![read_only("/ro", false), read_only("/rro", true)]).await;
        let writes =
            async |path: &str| node.exec(&id, &format!("touch {path}/x"), 10).await.unwrap().exit_code == 0;
        assert!(!writes("/ro").await && writes("/ro/below").await);
        assert!(!writes("/rro").await && !writes("/rro/below").await);
        assert!(node.status(&id).await.mounts[1].recursive_read_only);
        for wrong in [
            cri::Mount { readonly: false, ..read_only("/x", true) },
            cri::Mount { propagation: Travel::PropagationHostToContainer.into(), ..read_only("/x", true) },
        ] {
            let refused =
                node.try_container(&pod, "d", |config| config.mounts = vec![wrong]).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains("recursive_read_only"), "{refused}");
        }
        node.remove_pod(&pod).await;
        drop(top);
        node
    });
}

#[test]
fn mount_options_forbid_and_a_missing_source_is_made() {
    on_a_node(|node| async {
        let pod = node.pod("options").await;
        let (data, missing) = (node.path("data"), node.path("not/yet/there"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::copy("/bin/busybox", data.join("echo")).unwrap();
        let strict = cri::Mount {
            mount_options: vec!["noexec".to_owned(), "nosuid".to_owned(), "nodev".to_owned()],
            ..bind(&data, "/strict", Travel::PropagationPrivate)
        };
        let mounts = vec![
            strict,
            bind(&data, "/free", Travel::PropagationPrivate),
            bind(&missing, "/missing", Travel::PropagationPrivate),
        ];
        let id = with_mounts(&node, &pod, "c", mounts).await;
        assert_eq!(node.output(&id, "/free/echo runs").await, "runs");
        assert_ne!(node.exec(&id, "/strict/echo runs", 10).await.unwrap().exit_code, 0);
        let line = node.output(&id, "grep ' /strict ' /proc/self/mountinfo").await;
        assert!(line.contains("nosuid,nodev,noexec"), "{line}");
        node.output(&id, "touch /missing/file").await;
        assert!(missing.join("file").exists());
        assert_eq!(node.status(&id).await.mounts[0].mount_options.len(), 3);
        node.remove_pod(&pod).await;
        node
    });
}

fn image_volume(path: &str, sub_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: path.to_owned(),
        image: Some(cri::ImageSpec { image: image::NAME.to_owned(), ..Default::default() }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

#[test]
fn an_image_is_a_read_only_volume_that_stays_while_it_is_used_and_goes_with_the_container() {
    on_a_node(|mut node| async {
        let pod = node.pod("images").await;
        let volumes = vec![image_volume("/whole", ""), image_volume("/part", "etc")];
        let id = with_mounts(&node, &pod, "c", volumes).await;
        let passwd = node.output(&id, "cat /etc/passwd").await;
        assert_eq!(node.output(&id, "cat /whole/etc/passwd").await, passwd);
        assert_eq!(node.output(&id, "cat /part/passwd").await, passwd);
        for write in ["touch /whole/new", "touch /part/new", "rm /part/passwd"] {
            assert_ne!(node.exec(&id, write, 10).await.unwrap().exit_code, 0, "{write}");
        }
        let mounts = node.status(&id).await.mounts;
        assert_eq!(mounts[1].image_sub_path, "etc");
        assert_eq!(mounts[0].image.as_ref().unwrap().image, image::NAME);
        let in_use = node.engine().images().remove(image::NAME).unwrap_err();
        let pintle_image::Error::InUse { by, .. } = &in_use else { panic!("{in_use}") };
        assert!(by.iter().any(|key| key.ends_with(".v1")), "the volume holds the image: {by:?}");
        node.engine().images().collect().unwrap();
        assert_eq!(node.output(&id, "cat /whole/etc/passwd").await, passwd);
        assert_eq!(node.findings().await, []);
        node.drop_engine().await;
        node.open().await;
        assert_eq!(node.output(&id, "cat /part/passwd").await, passwd);
        node.remove(&id).await.unwrap();
        assert_eq!(node.engine().images().snapshots().unwrap(), Vec::<String>::new());
        assert!(node.engine().images().remove(image::NAME).unwrap());
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn an_image_volume_that_cannot_be_leaves_nothing() {
    on_a_node(|node| async {
        let pod = node.pod("no-images").await;
        let missing = cri::ImageSpec { image: "test.invalid/none".to_owned(), ..Default::default() };
        for (volume, code) in [
            (cri::Mount { image: Some(missing), ..image_volume("/x", "") }, Code::NotFound),
            (image_volume("/x", "no/such"), Code::InvalidArgument),
            (image_volume("/x", "etc/passwd"), Code::InvalidArgument),
            // A link of the image's that leads out of it.
            (image_volume("/x", "escape"), Code::InvalidArgument),
            (image_volume("/x", "../x"), Code::InvalidArgument),
        ] {
            let made =
                node.try_container(&pod, "c", |config| config.mounts = vec![image_volume("/y", ""), volume]);
            let refused = made.await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert_eq!(node.engine().images().snapshots().unwrap(), Vec::<String>::new());
        }
        node.remove_pod(&pod).await;
        node
    });
}

/// A specification with one device that brings everything that is supported.
fn specification(node: &Node) -> String {
    format!(
        "cdiVersion: 0.7.0
kind: vendor.test/thing
containerEdits:
  env: [FROM_ALL=yes]
devices:
- name: one
  containerEdits:
    env: [\"FROM_ONE=yes\"]
    deviceNodes:
    - {{path: /dev/thing, hostPath: /dev/kmsg, permissions: r}}
    - {{path: /srv/thing, hostPath: /dev/null}}
    mounts:
    - {{hostPath: {data}, containerPath: /opt/thing, options: [ro, nosuid, rbind]}}
    hooks:
    - {{hookName: createRuntime, path: {hook}, args: [hook, runtime], env: [OUT={out}], timeout: 20}}
    - {{hookName: createContainer, path: {hook}, args: [hook, container], env: [OUT={out}], timeout: 20}}
    additionalGids: [4321]
",
        data = node.path("thing").display(),
        hook = node.path("hook").display(),
        out = node.path("hooks").display(),
    )
}

#[test]
fn a_cdi_device_brings_variables_nodes_mounts_groups_and_hooks() {
    on_a_node(|node| async {
        for dir in ["cdi", "thing", "hooks"] {
            std::fs::create_dir(node.path(dir)).unwrap();
        }
        std::fs::write(node.path("thing/file"), "from the vendor").unwrap();
        std::fs::write(node.path("hook"), "#!/bin/sh\ncat > \"$OUT/$1\"\n").unwrap();
        std::fs::set_permissions(node.path("hook"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(node.path("cdi/thing.yaml"), specification(&node)).unwrap();
        let pod = node.pod("cdi").await;
        let change = |config: &mut cri::ContainerConfig| {
            config.command = shell("sleep 1000");
            config.cdi_devices = vec![cri::CdiDevice { name: "vendor.test/thing=one".to_owned() }];
        };
        let id = node.try_container(&pod, "c", change).await.unwrap();
        node.start(&id).await.unwrap();
        assert_eq!(node.output(&id, "echo $FROM_ALL $FROM_ONE").await, "yes yes");
        assert_eq!(node.output(&id, "cat /opt/thing/file").await, "from the vendor");
        assert_ne!(node.exec(&id, "touch /opt/thing/new", 10).await.unwrap().exit_code, 0);
        node.output(&id, "test -c /dev/thing && test -c /srv/thing && echo x > /srv/thing").await;
        assert!(node.output(&id, "id -G").await.contains("4321"));
        for hook in ["runtime", "container"] {
            let state = std::fs::read_to_string(node.path("hooks").join(hook)).unwrap();
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            assert_eq!(state["id"], id.as_str(), "{hook}");
        }
        node.remove_pod(&pod).await;
        node
    });
}

#[test]
fn a_cdi_device_may_be_asked_for_by_annotation_and_what_cannot_be_had_is_named() {
    on_a_node(|node| async {
        std::fs::create_dir(node.path("cdi")).unwrap();
        let document = |name: &str, edits: &str| {
            format!(
                r#"{{"cdiVersion":"1.0.0","kind":"v.test/c","devices":[{{"name":"{name}","containerEdits":{edits}}}]}}"#
            )
        };
        let write = |name: &str, edits: &str| {
            std::fs::write(node.path(&format!("cdi/{name}.json")), document(name, edits)).unwrap();
        };
        write("good", r#"{"env":["THERE=1"]}"#);
        write("rdt", r#"{"intelRdt":{"closID":"x"}}"#);
        write("late", r#"{"hooks":[{"hookName":"poststop","path":"/bin/true"}]}"#);
        write("gone", r#"{"deviceNodes":[{"path":"/dev/gone"}]}"#);
        write("fails", r#"{"hooks":[{"hookName":"createContainer","path":"/bin/false"}]}"#);
        let pod = node.pod("annotated").await;
        let annotated = |config: &mut cri::ContainerConfig| {
            config.command = shell("sleep 1000");
            config.annotations.insert("cdi.k8s.io/test_1".to_owned(), "v.test/c=good".to_owned());
        };
        let id = node.try_container(&pod, "good", annotated).await.unwrap();
        node.start(&id).await.unwrap();
        assert_eq!(node.output(&id, "echo $THERE").await, "1");
        for (name, code, named) in [
            ("rdt", Code::Unimplemented, "intelRdt"),
            ("late", Code::Unimplemented, "poststop"),
            ("gone", Code::InvalidArgument, "/dev/gone"),
            ("none", Code::InvalidArgument, "no device v.test/c=none"),
            ("fails", Code::Unknown, "hook"),
        ] {
            let made = node.try_container(&pod, name, |config| {
                config.cdi_devices = vec![cri::CdiDevice { name: format!("v.test/c={name}") }];
            });
            let refused = made.await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(named), "{refused}");
        }
        node.remove_pod(&pod).await;
        node
    });
}
