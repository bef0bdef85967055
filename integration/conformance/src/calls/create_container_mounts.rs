//! CreateContainer: mounts and devices.

use super::prelude::*;
use crate::images::FULL;

const IMAGES: &str = "image volumes came with Kubernetes 1.31; containerd 1.6 does not know them";

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "a directory of the node is mounted, to be written or only read",
            "if readonly is set, the mount is read-only",
            |run: Run| async move {
                let dir = run.dir("volume")?;
                file(&dir, "one", "of the node\n")?;
                let script =
                    "cat /w/one; echo from inside > /w/two; touch /r/three 2>/dev/null || echo refused";
                let text = run
                    .shared()
                    .await?
                    .prints(script, |config| {
                        let readonly = v1::Mount { readonly: true, ..mount(&dir, "/r") };
                        config.mounts = vec![mount(&dir, "/w"), readonly];
                    })
                    .await?;
                same("what it printed", text.as_str(), "of the node\nrefused")?;
                same("the file", std::fs::read_to_string(dir.join("two"))?.as_str(), "from inside\n")
            },
        ),
        case("a file of the node is mounted", "path of the mount on the host", |run: Run| async move {
            let path = file(&run.dir("volume")?, "one", "a file\n")?;
            let change = |config: &mut v1::ContainerConfig| config.mounts = vec![mount(&path, "/etc/own")];
            same("the file", run.shared().await?.prints("cat /etc/own", change).await?.as_str(), "a file")
        }),
        case(
            "a symbolic link is followed",
            "if the host path is a symbolic link, runtimes should follow it and mount the real destination",
            |run: Run| async move {
                let dir = run.dir("volume")?;
                file(&dir, "real/one", "behind the link\n")?;
                std::os::unix::fs::symlink(dir.join("real"), dir.join("link"))?;
                let change =
                    |config: &mut v1::ContainerConfig| config.mounts = vec![mount(&dir.join("link"), "/v")];
                let text = run.shared().await?.prints("cat /v/one", change).await?;
                same("the file", text.as_str(), "behind the link")
            },
        ),
        case(
            "a directory that is missing is made",
            "the text wants an error; every runtime makes it, and a hostPath volume without a type relies on that",
            |run: Run| async move {
                let missing = run.dir("volume")?.join("missing/deep");
                let change = |config: &mut v1::ContainerConfig| config.mounts = vec![mount(&missing, "/v")];
                run.shared().await?.prints("touch /v/one", change).await?;
                ensure!(missing.join("one").exists(), "nothing was made");
                Ok(())
            },
        ),
        case("mounts nest, whatever their order", "mounts for the container", |run: Run| async move {
            let (outer, inner) = (run.dir("outer")?, run.dir("inner")?);
            file(&outer, "one", "outer\n")?;
            file(&inner, "one", "inner\n")?;
            let change = |config: &mut v1::ContainerConfig| {
                config.mounts = vec![mount(&inner, "/v/deep"), mount(&outer, "/v")];
            };
            let text = run.shared().await?.prints("cat /v/one /v/deep/one", change).await?;
            same("the files", text.as_str(), "outer\ninner")
        }),
        case("the status tells the mounts", "ContainerStatus.mounts", |run: Run| async move {
            let dir = run.dir("volume")?;
            let wanted = v1::Mount { readonly: true, ..mount(&dir, "/v") };
            let id = run.shared().await?.create(|config| config.mounts = vec![wanted.clone()]).await?;
            same("mounts", run.status(&id).await?.mounts, vec![wanted])
        }),
    ];
    all.extend(travelling());
    all.extend(images());
    all.extend(devices());
    all
}

fn travelling() -> Vec<Case> {
    let nested = |run: &Run| -> Outcome<std::path::PathBuf> {
        let dir = run.side().ground.shared().join(run.name("volume"));
        let text = dir.join("below").to_string_lossy().into_owned();
        run.side().ground.run("mkdir", &["-p", &text]);
        run.side().ground.run("mount", &["-t", "tmpfs", "below", &text]);
        Ok(dir)
    };
    vec![
        case(
            "recursively read-only goes for the mounts below too",
            "if set to true, the mount is made recursively read-only",
            move |run: Run| async move {
                let dir = nested(&run)?;
                let script =
                    "for d in /r /rr; do touch $d/below/x 2>/dev/null && echo written || echo refused; done";
                let text = run
                    .shared()
                    .await?
                    .prints(script, |config| {
                        let readonly = v1::Mount { readonly: true, ..mount(&dir, "/r") };
                        let all = v1::Mount { container_path: "/rr".to_owned(), ..readonly.clone() };
                        let all = v1::Mount { recursive_read_only: true, ..all };
                        config.mounts = vec![readonly, all];
                    })
                    .await?;
                same("what it printed", text.as_str(), "written\nrefused")
            },
        )
        .containerd(
            "written\\nwritten",
            "the field came with Kubernetes 1.30; containerd 1.6 does not know it and ignores it",
        ),
        case(
            "recursively read-only needs read-only and private propagation",
            "when set to true, readonly must be true and propagation private",
            |run: Run| async move {
                let (pod, dir) = (run.shared().await?, run.dir("volume")?);
                let all = v1::Mount { recursive_read_only: true, ..mount(&dir, "/v") };
                let shared = v1::Mount { readonly: true, propagation: 1, ..all.clone() };
                for bad in [all, shared] {
                    let config = v1::ContainerConfig { mounts: vec![bad], ..pod.container() };
                    refused(pod.try_create(config).await, &[Code::InvalidArgument])?;
                }
                Ok(())
            },
        )
        .containerd("it was not refused", "the field is newer than containerd 1.6"),
        case(
            "later mounts of the node reach the container, or its reach the node, only when asked for",
            "PRIVATE, HOST_TO_CONTAINER and BIDIRECTIONAL",
            propagation,
        ),
    ]
}

async fn propagation(run: Run) -> Outcome {
    let ground = std::sync::Arc::clone(&run.side().ground);
    let dir = ground.shared().join(run.name("volume"));
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    ground.run("mkdir", &["-p", &path("later"), &path("inside")]);
    let pod = run.pod_with(|config| pod_security(config).privileged = true).await?;
    let id = pod
        .start(|config| {
            security(config).privileged = true;
            let with = |inside: &str, propagation: v1::MountPropagation| v1::Mount {
                propagation: propagation.into(),
                ..mount(&dir, inside)
            };
            config.mounts = vec![
                with("/private", v1::MountPropagation::PropagationPrivate),
                with("/slave", v1::MountPropagation::PropagationHostToContainer),
                with("/both", v1::MountPropagation::PropagationBidirectional),
            ];
        })
        .await?;
    ground.run("mount", &["-t", "tmpfs", "later", &path("later")]);
    ground.run("touch", &[&path("later/seen")]);
    let look = "for d in private slave both; do test -e /$d/later/seen && echo $d; done; true";
    same("who sees it", run.says(&id, look).await?.as_str(), "slave\nboth")?;
    run.says(&id, "mount -t tmpfs inside /slave/inside && touch /slave/inside/slave").await?;
    let seen =
        |name: &str| ground.command("test").args(["-e", &path(name)]).status().is_ok_and(|s| s.success());
    ensure!(!seen("inside/slave"), "a mount travelled out of HOST_TO_CONTAINER");
    run.says(&id, "mount -t tmpfs inside /both/inside && touch /both/inside/both").await?;
    ensure!(seen("inside/both"), "a mount did not travel out of BIDIRECTIONAL");
    ground.run("umount", &[&path("inside")]);
    ground.run("umount", &[&path("later")]);
    Ok(())
}

fn images() -> Vec<Case> {
    let volume = |path: &str| v1::Mount {
        image: Some(image(FULL)),
        container_path: "/v".to_owned(),
        image_sub_path: path.to_owned(),
        ..Default::default()
    };
    vec![
        case(
            "an image is mounted, and can only be read",
            "all image mounts are read-only",
            move |run: Run| async move {
                let script = "cat /v/srv/data/one; touch /v/x 2>/dev/null || echo refused";
                let change = |config: &mut v1::ContainerConfig| config.mounts = vec![volume("")];
                let text = run.shared().await?.prints(script, change).await?;
                same("what it printed", text.as_str(), "one\nrefused")
            },
        )
        .containerd("Unknown", IMAGES),
        case(
            "a path inside of an image is mounted, and must be there",
            "if the sub path is not empty and does not exist in the image, runtimes should fail",
            move |run: Run| async move {
                let pod = run.shared().await?;
                let change = |config: &mut v1::ContainerConfig| config.mounts = vec![volume("srv/data/deep")];
                same("the file", pod.prints("cat /v/two", change).await?.as_str(), "two")?;
                for bad in ["no/such", "../../etc"] {
                    fails(
                        pod.try_create(v1::ContainerConfig { mounts: vec![volume(bad)], ..pod.container() })
                            .await,
                    )?;
                }
                Ok(())
            },
        )
        .containerd("Unknown", IMAGES),
        case(
            "an image and a host path exclude each other",
            "host_path has to be empty if image is provided",
            move |run: Run| async move {
                let pod = run.shared().await?;
                let both = v1::Mount { host_path: "/tmp".to_owned(), ..volume("") };
                let config = v1::ContainerConfig { mounts: vec![both], ..pod.container() };
                refused(pod.try_create(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("it was not refused", IMAGES),
        case(
            "an image that is not there cannot be mounted",
            "the kubelet pulls the image first",
            move |run: Run| async move {
                let pod = run.shared().await?;
                let missing = v1::Mount { image: Some(image("localhost/no-such:1")), ..volume("") };
                let config = v1::ContainerConfig { mounts: vec![missing], ..pod.container() };
                refused(pod.try_create(config).await, &[Code::NotFound]).map(drop)
            },
        )
        .containerd("Unknown", IMAGES),
    ]
}

fn devices() -> Vec<Case> {
    let device = |permissions: &str| v1::Device {
        host_path: "/dev/loop-control".to_owned(),
        container_path: "/dev/own".to_owned(),
        permissions: permissions.to_owned(),
    };
    vec![
        case(
            "a device of the node is there under its name, with its permissions",
            "r allows to read, w to write, m to create device files",
            move |run: Run| async move {
                let script = "ls -l /dev/own | tr -s ' ' | cut -d' ' -f5,6; sh -c ': < /dev/own' && echo read; \
                              sh -c ': > /dev/own' 2>/dev/null || echo refused";
                let change = |config: &mut v1::ContainerConfig| config.devices = vec![device("r")];
                let text = run.shared().await?.prints(script, change).await?;
                same("what it printed", text.as_str(), "10, 237\nread\nrefused")
            },
        ),
        case(
            "a device that is not there is refused",
            "path of the device on the host",
            move |run: Run| async move {
                let pod = run.shared().await?;
                let missing = v1::Device { host_path: "/dev/no-such".to_owned(), ..device("rw") };
                fails(pod.try_create(v1::ContainerConfig { devices: vec![missing], ..pod.container() }).await)
                    .map(drop)
            },
        ),
    ]
}
