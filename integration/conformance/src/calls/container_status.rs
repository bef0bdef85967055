//! ContainerStatus: what is told of a container from its making to its end.

use super::{NOBODY, pod_sandbox_status::now, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "a container that is not there is not found",
            "if the container is not present, an error is returned",
            |run: Run| async move {
                refused(run.answer(NOBODY, false).await, &[Code::NotFound])?;
                refused(run.answer("", false).await, &[Code::NotFound, Code::InvalidArgument]).map(drop)
            },
        )
        .containerd(
            "Unknown instead of",
            "containerd 1.6 answers Unknown where an id is empty; Pintle is right",
        ),
        case(
            "created, started, finished: the times are in order and in nanoseconds",
            "times in nanoseconds; 0 is not specified",
            |run: Run| async move {
                let before = now();
                let id = run.shared().await?.start(|config| config.command = words(&["/bin/true"])).await?;
                let status = run.ended(&id).await?;
                let times = [before, status.created_at, status.started_at, status.finished_at, now()];
                ensure!(times.is_sorted(), "the times are {times:?}");
                Ok(())
            },
        )
        .containerd_at_times("the times are", "containerd takes the time of the start after it: a short program has ended before it began. Pintle is right"),
        case(
            "exit code and reason tell how it ended",
            "exit code of the container; a brief CamelCase reason",
            |run: Run| async move {
                let pod = run.shared().await?;
                let sign = |text: &str| text.to_owned();
                for (script, code, reason) in [
                    ("exit 0", 0, sign("Completed")),
                    ("exit 3", 3, sign("Error")),
                    ("kill -KILL $$; sleep 1", -1, sign("Error")),
                ] {
                    // The first process of a pid namespace is not killed by itself: a child of it is, here.
                    let script = script.replace("kill -KILL $$; sleep 1", "sh -c 'kill -KILL $$'; exit $?");
                    let code = if code == -1 { 137 } else { code };
                    let id = pod.start(|config| config.command = shell(&script)).await?;
                    let status = run.ended(&id).await?;
                    same("the exit code", status.exit_code, code)?;
                    same("the reason", status.reason, reason)?;
                }
                Ok(())
            },
        ),
        case(
            "a container that used too much memory was killed for that",
            "the reason must be OOMKilled for containers terminated by the cgroup's out-of-memory killer",
            |run: Run| async move {
                let pod = run.shared().await?;
                let hog = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
                let id = pod
                    .start(|config| {
                        config.command = shell(&format!("exec sh -c \"{}\"", hog.replace('$', "\\$")));
                        resources(config).memory_limit_in_bytes = 24 << 20;
                        resources(config).memory_swap_limit_in_bytes = 24 << 20;
                    })
                    .await?;
                let status = run.ended(&id).await?;
                same("the reason", status.reason.as_str(), "OOMKilled")?;
                same("the exit code", status.exit_code, 137)
            },
        ),
        case(
            "more is told of a container only when it is asked for",
            "info is JSON, and only not empty when verbose is true",
            |run: Run| async move {
                let id = run.shared().await?.start(|_| {}).await?;
                same("info", run.answer(&id, false).await?.info.len(), 0)?;
                let info = run.answer(&id, true).await?.info;
                let json = |value: &String| serde_json::from_str::<serde_json::Value>(value).is_ok();
                ensure!(!info.is_empty() && info.values().all(json), "info is {info:?}");
                pid_in(&info).map(drop)
            },
        ),
    ];
    all.extend(images());
    all.extend(newer());
    all
}

fn images() -> Vec<Case> {
    vec![
        case(
            "the status tells the image as the user named it",
            "user_specified_image is the reference that the user gave",
            |run: Run| async move {
                let named = "as.the.user/named:it".to_owned();
                let change = |config: &mut v1::ContainerConfig| {
                    config.image.get_or_insert_default().user_specified_image.clone_from(&named);
                };
                let id = run.shared().await?.create(change).await?;
                let told = run.status(&id).await?.image.unwrap_or_default().user_specified_image;
                same("the name", told, named)
            },
        )
        .containerd(
            "the name is \"\"",
            "the field came with Kubernetes 1.28; containerd 1.6 does not know it",
        ),
        case(
            "image and image_ref name what it was made from",
            "image: the spec that was given; image_ref: a digested reference, or the id of what has no digest",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                let status = run.status(&id).await?;
                let request = v1::ImageStatusRequest { image: Some(image(IMAGE)), verbose: false };
                let known = run.images().image_status(request).await?.into_inner().image.unwrap_or_default();
                let given = status.image.unwrap_or_default().image;
                ensure!(given == IMAGE || known.repo_tags.contains(&given), "the image is {given:?}");
                let digested = known.repo_digests.contains(&status.image_ref) || status.image_ref == known.id;
                ensure!(digested, "image_ref is {:?} and the image {known:?}", status.image_ref);
                Ok(())
            },
        ),
        case(
            "image_id is the id that the image service uses",
            "image_id must always match PullImageResponse.image_ref when referring to the same image",
            |run: Run| async move {
                let id = run.shared().await?.create(|_| {}).await?;
                let request = v1::ImageStatusRequest { image: Some(image(IMAGE)), verbose: false };
                let known = run.images().image_status(request).await?.into_inner().image.unwrap_or_default();
                same("image_id", run.status(&id).await?.image_id, known.id)
            },
        )
        .containerd(
            "image_id is \"\"",
            "the field came with Kubernetes 1.29; containerd 1.6 does not know it",
        ),
    ]
}

fn newer() -> Vec<Case> {
    vec![
        case(
            "the status tells the limits",
            "resource limits configuration of the container",
            |run: Run| async move {
                let id = run
                    .shared()
                    .await?
                    .create(|config| {
                        let wanted = resources(config);
                        (wanted.cpu_shares, wanted.memory_limit_in_bytes) = (512, 64 << 20);
                        (wanted.cpu_quota, wanted.cpu_period) = (25_000, 50_000);
                    })
                    .await?;
                let found = run.status(&id).await?.resources.and_then(|r| r.linux).unwrap_or_default();
                let memory = (found.cpu_shares, found.memory_limit_in_bytes);
                same("shares and memory", memory, (512, 64 << 20))?;
                same("quota and period", (found.cpu_quota, found.cpu_period), (25_000, 50_000))
            },
        ),
        case(
            "the status tells user and groups",
            "user identities initially attached to the first process",
            |run: Run| async move {
                let id = run
                    .shared()
                    .await?
                    .create(|config| {
                        let wanted = security(config);
                        (wanted.run_as_user, wanted.run_as_group) = (number(1234), number(2345));
                        wanted.supplemental_groups = vec![3456];
                    })
                    .await?;
                let user = run.status(&id).await?.user.and_then(|user| user.linux).unwrap_or_default();
                same("user and group", (user.uid, user.gid), (1234, 2345))?;
                ensure!(
                    user.supplemental_groups.contains(&3456),
                    "groups are {:?}",
                    user.supplemental_groups
                );
                Ok(())
            },
        )
        .containerd(
            "user and group is (0, 0)",
            "the field came with Kubernetes 1.31; containerd 1.6 does not know it",
        ),
        case(
            "the status tells the stop signal",
            "the stop signal used by the container runtime to terminate the container",
            |run: Run| async move {
                let pod = run.shared().await?;
                let plain = pod.create(|_| {}).await?;
                same("the usual one", run.status(&plain).await?.stop_signal(), v1::Signal::Sigterm)?;
                let own = pod.create(|config| config.stop_signal = v1::Signal::Sigint.into()).await?;
                same("its own", run.status(&own).await?.stop_signal(), v1::Signal::Sigint)
            },
        )
        .containerd(
            "the usual one is RuntimeDefault",
            "the field came with Kubernetes 1.33; containerd 1.6 does not know it",
        ),
    ]
}
