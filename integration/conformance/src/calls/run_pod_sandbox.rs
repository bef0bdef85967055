//! RunPodSandbox: names, attempts, repeated and broken-off calls, metadata, errors.

use std::time::Duration;

use super::prelude::*;

const RESERVED: &str = "containerd 1.6 answers with Unknown for whatever is wrong; the code is the client's only way to tell \
                        a bad request from a broken runtime, and Pintle is right";

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "a sandbox that was run is ready",
            "runtimes must ensure the sandbox is in the ready state on success",
            |run: Run| async move {
                let pod = run.pod().await?;
                let status = run.pod_status(&pod.id).await?;
                same("the id", status.id.as_str(), pod.id.as_str())?;
                same("the state", status.state(), v1::PodSandboxState::SandboxReady)
            },
        ),
        case(
            "a handler that is unknown is refused",
            "if the runtime handler is unknown, this request should be rejected",
            |run: Run| async move {
                let runtime_handler = "no-such-handler".to_owned();
                let request = v1::RunPodSandboxRequest { config: Some(run.config()), runtime_handler };
                fails(run.cri().run_pod_sandbox(request).await).map(drop)
            },
        ),
        case(
            "a sandbox on a network of its own has an address",
            "PodSandboxNetworkStatus.ip is the address; it is ignored for pods on the node's network",
            |run: Run| async move {
                let pod = run.networked(|_| {}).await?;
                let network = run.pod_status(&pod.id).await?.network.unwrap_or_default();
                ensure!(network.ip.parse::<std::net::IpAddr>().is_ok(), "{:?} is no address", network.ip);
                let on_node = run.pod().await?;
                let network = run.pod_status(&on_node.id).await?.network.unwrap_or_default();
                same("the address on the node's network", network.ip.as_str(), "")
            },
        ),
        case(
            "labels and annotations come back as they were given",
            "annotations must not be altered by the runtime and must be returned in the status",
            |run: Run| async move {
                let (mine, notes) = (labels(&[("a/b", "1"), ("empty", "")]), labels(&[("note", "ä\n{}")]));
                let pod = run
                    .pod_with(|config| {
                        config.labels.clone_from(&mine);
                        config.annotations.clone_from(&notes);
                    })
                    .await?;
                let status = run.pod_status(&pod.id).await?;
                same("labels", status.labels, mine)?;
                same("annotations", status.annotations, notes)?;
                same("metadata", status.metadata, pod.config.metadata)
            },
        ),
    ];
    all.extend(names());
    all.extend(bad_requests());
    all
}

fn names() -> Vec<Case> {
    vec![
        case(
            "another attempt of the same pod is another sandbox",
            "the attempt is part of the metadata that identifies a sandbox uniquely",
            |run: Run| async move {
                let first = run.pod().await?;
                let mut config = first.config.clone();
                config.metadata.get_or_insert_default().attempt = 1;
                let second = run.run_pod(config).await?;
                ensure!(first.id != second.id, "both are {}", first.id);
                let metadata = run.pod_status(&second.id).await?.metadata.unwrap_or_default();
                same("the attempt", metadata.attempt, 1)
            },
        ),
        case(
            "the same sandbox asked for again is the same or exists already",
            "the metadata identifies the sandbox uniquely: there are never two of the same",
            |run: Run| async move {
                let first = run.pod().await?;
                match run.try_pod(first.config.clone()).await {
                    Ok(id) => same("the second sandbox", id, first.id),
                    Err(status) => same("the code", status.code(), Code::AlreadyExists),
                }
            },
        )
        .containerd("Unknown", RESERVED),
        case(
            "the name of a removed sandbox is free again",
            "after RemovePodSandbox nothing of the sandbox is left",
            |run: Run| async move {
                let first = run.pod().await?;
                run.stop_pod(&first.id).await?;
                run.remove_pod(&first.id).await?;
                let second = run.run_pod(first.config.clone()).await?;
                ensure!(first.id != second.id, "the id {} came back", first.id);
                Ok(())
            },
        ),
        case(
            "a call that its client broke off does not keep the name",
            "the metadata stands for the pod: a client that timed out asks again and must get it",
            |run: Run| async move {
                for milliseconds in [1, 3, 10, 30] {
                    let config = run.config();
                    let mut request = tonic::Request::new(v1::RunPodSandboxRequest {
                        config: Some(config.clone()),
                        runtime_handler: String::new(),
                    });
                    request.set_timeout(Duration::from_millis(milliseconds));
                    drop(run.cri().run_pod_sandbox(request).await);
                    let pod = run.run_pod(config).await?;
                    let status = run.pod_status(&pod.id).await?;
                    same("the state", status.state(), v1::PodSandboxState::SandboxReady)?;
                }
                Ok(())
            },
        )
        .containerd_at_times(
            "reserved",
            "containerd answers \"name is reserved\" until it has noticed that the client is gone; Pintle is right: the second \
             call gets what the first one makes",
        ),
        case(
            "eight clients that ask for one sandbox at once get one sandbox",
            "the metadata identifies the sandbox uniquely",
            |run: Run| async move {
                let config = run.config();
                let calls = (0..8).map(|_| run.try_pod(config.clone()));
                let answers = futures_util::future::join_all(calls).await;
                let mut ids: Vec<String> = answers.into_iter().filter_map(Result::ok).collect();
                ids.dedup();
                same("the number of sandboxes", ids.len(), 1)
            },
        ),
    ]
}

fn bad_requests() -> Vec<Case> {
    vec![
        case(
            "a request without a configuration or a name is a bad one",
            "the metadata holds all that is needed to name the sandbox",
            |run: Run| async move {
                let none = v1::RunPodSandboxRequest::default();
                refused(run.cri().run_pod_sandbox(none).await, &[Code::InvalidArgument])?;
                let config = v1::PodSandboxConfig { metadata: None, ..run.config() };
                refused(run.try_pod(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("Unknown", RESERVED),
        case(
            "a group without a user is refused",
            "run_as_group should only be specified when run_as_user is; otherwise the runtime must error",
            |run: Run| async move {
                let mut config = run.config();
                pod_security(&mut config).run_as_group = number(1000);
                refused(run.try_pod(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd("Unknown", RESERVED),
        case(
            "a name server that is none is refused",
            "DNSConfig.servers is a list of DNS servers; a line of resolv.conf cannot hold anything",
            |run: Run| async move {
                let mut config = run.config();
                config.dns_config = Some(v1::DnsConfig {
                    searches: words(&["a b\nnameserver 6.6.6.6"]),
                    ..Default::default()
                });
                refused(run.try_pod(config).await, &[Code::InvalidArgument]).map(drop)
            },
        )
        .containerd(
            "it was not refused",
            "containerd writes the line break into resolv.conf; Pintle is right",
        ),
        case(
            "a sysctl that is not the pod's own is refused",
            "sysctls are for the sandbox: what is not namespaced would be the node's",
            |run: Run| async move {
                let mut config = run.config();
                config.linux.get_or_insert_default().sysctls = labels(&[("vm.swappiness", "10")]);
                fails(run.try_pod(config).await).map(drop)
            },
        ),
    ]
}
