//! RunPodSandbox: what the pod's configuration does to the containers in it.

use super::prelude::*;

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "the host name is the pod's, in its files too",
            "hostname of the sandbox; it can only be empty on the node's network",
            |run: Run| async move {
                let pod = run.networked(|config| config.hostname = "named".to_owned()).await?;
                let text = pod.prints("hostname; cat /etc/hostname; echo $HOSTNAME", |_| {}).await?;
                same("the name", text.as_str(), "named\nnamed\nnamed")
            },
        ),
        case(
            "name servers, domains and options are those of the pod",
            "DNSConfig specifies servers, search domains and options of a sandbox",
            |run: Run| async move {
                let pod = run
                    .networked(|config| {
                        config.dns_config = Some(v1::DnsConfig {
                            servers: words(&["10.96.0.10", "10.96.0.11"]),
                            searches: words(&["one.local", "two.local"]),
                            options: words(&["ndots:5", "edns0"]),
                        });
                    })
                    .await?;
                let text = pod.prints("cat /etc/resolv.conf", |_| {}).await?;
                for line in ["nameserver 10.96.0.10", "nameserver 10.96.0.11"] {
                    ensure!(text.contains(line), "{line:?} is missing in {text:?}");
                }
                let has = |first: &str, rest: [&str; 2]| {
                    let line = text.lines().find(|line| line.starts_with(first)).unwrap_or_default();
                    rest.iter().all(|word| line.contains(word))
                };
                ensure!(has("search", ["one.local", "two.local"]), "the domains are missing in {text:?}");
                ensure!(has("options", ["ndots:5", "edns0"]), "the options are missing in {text:?}");
                Ok(())
            },
        ),
        case("sysctls hold in every container of the pod", "sysctls of the sandbox", |run: Run| async move {
            let pod = run
                .networked(|config| {
                    config.linux.get_or_insert_default().sysctls =
                        labels(&[("net.ipv4.ip_local_port_range", "3000 4000"), ("kernel.shmmni", "777")]);
                })
                .await?;
            let script = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shmmni";
            let text = pod.prints(script, |_| {}).await?;
            same("the values", text.split_whitespace().collect::<Vec<_>>(), vec!["3000", "4000", "777"])
        }),
        case(
            "containers live below the pod's cgroup",
            "cgroup_parent is the parent of the sandbox, in cgroupfs style",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|_| {}).await?;
                let pid = run.pid(&id).await?;
                let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
                let parent = pod.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone());
                let parent = parent.unwrap_or_default();
                let inside = text.lines().any(|line| line.contains(&format!("{parent}/")));
                ensure!(inside, "{parent} is not above {text}");
                Ok(())
            },
        ),
        case(
            "logs lie in the pod's directory under the container's path",
            "log_path is relative to the sandbox's log_directory",
            |run: Run| async move {
                let pod = run.pod().await?;
                let id = pod.start(|config| config.log_path = "deep/0.log".to_owned()).await?;
                let path = run.status(&id).await?.log_path;
                same("the path", path.as_str(), format!("{}/deep/0.log", pod.config.log_directory).as_str())?;
                ensure!(std::path::Path::new(&path).exists(), "there is no {path}");
                Ok(())
            },
        ),
        case(
            "a port without a host port is only known",
            "host_port 0 says explicitly that no port of the host is to be allocated",
            |run: Run| async move {
                let pod = run
                    .networked(|config| {
                        config.port_mappings =
                            vec![v1::PortMapping { container_port: 80, ..Default::default() }];
                    })
                    .await?;
                same("the state", run.pod_status(&pod.id).await?.state(), v1::PodSandboxState::SandboxReady)
            },
        ),
        case(
            "a host port leads to the container's port",
            "host_port is the port number on the host to map the container port to",
            host_port,
        ),
    ];
    all.extend(namespace_cases());
    all
}

async fn host_port(run: Run) -> Outcome {
    let port: i32 = if run.side().kind == crate::case::Kind::Pintle { 18_081 } else { 18_082 };
    let pod = run
        .networked(|config| {
            let mapping = v1::PortMapping { container_port: 8080, host_port: port, ..Default::default() };
            config.port_mappings = vec![mapping];
        })
        .await?;
    let server = words(&["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]);
    pod.start(|config| config.command = server).await?;
    let address = run.pod_status(&pod.id).await?.network.unwrap_or_default().ip;
    let reach = |host: &str, port: i32| {
        let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {host} {port}");
        let output = run.side().ground.command("sh").args(["-c", &ask]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    run.until("the server in the pod", async || Ok(reach(&address, 8080).contains("Hello").then_some(())))
        .await?;
    // From the node itself, on an address of the node's that is not loopback.
    let node = run.side().ground.run("ip", &["-4", "-o", "addr", "show", "scope", "global"]);
    let own = node.split_whitespace().find(|word| word.contains('/')).unwrap_or_default();
    let own = own.split('/').next().unwrap_or_default().to_owned();
    run.until("the host port", async || Ok(reach(&own, port).contains("Hello").then_some(()))).await
}

fn namespace_cases() -> Vec<Case> {
    vec![
        case(
            "containers of a pod share network, ipc and host name and have processes of their own",
            "a POD namespace is common to all containers in a pod, a CONTAINER one restricted to one",
            |run: Run| async move {
                let pod = run.networked(|_| {}).await?;
                let (one, two) = (pod.start(|_| {}).await?, pod.start(|_| {}).await?);
                let (one, two) = (run.pid(&one).await?, run.pid(&two).await?);
                for shared in ["net", "ipc", "uts"] {
                    same(shared, namespace(one, shared)?, namespace(two, shared)?)?;
                    ensure!(namespace(one, shared)? != namespace_of_node(shared)?, "{shared} is the node's");
                }
                for own in ["pid", "mnt"] {
                    ensure!(namespace(one, own)? != namespace(two, own)?, "{own} is shared");
                }
                Ok(())
            },
        ),
        case(
            "a pod on the node's network, ipc and processes shares the node's",
            "a NODE namespace is the namespace of the node",
            |run: Run| async move {
                let node = i32::from(v1::NamespaceMode::Node);
                let change = |config: &mut v1::PodSandboxConfig| {
                    let options = pod_namespaces(config);
                    (options.pid, options.ipc) = (node, node);
                };
                let pod = run.pod_with(change).await?;
                let id = pod
                    .start(|config| {
                        let options = namespaces(config);
                        (options.network, options.pid, options.ipc) = (node, node, node);
                    })
                    .await?;
                let pid = run.pid(&id).await?;
                same("pid", namespace(pid, "pid")?, namespace_of_node("pid")?)?;
                same("ipc", namespace(pid, "ipc")?, namespace_of_node("ipc")?)?;
                let ground = run.side().ground.run("readlink", &["/proc/self/ns/net"]);
                same("net", namespace(pid, "net")?, ground.trim())
            },
        ),
        case(
            "containers that share processes see each other's",
            "a container with a PID namespace of POD expects to view all processes of all containers in the pod",
            |run: Run| async move {
                let shared = i32::from(v1::NamespaceMode::Pod);
                let pod = run.pod_with(|config| pod_namespaces(config).pid = shared).await?;
                pod.start(|config| {
                    config.command = words(&["/bin/sleep", "4321"]);
                    namespaces(config).pid = shared;
                })
                .await?;
                let text = pod.prints("ps", |config| namespaces(config).pid = shared).await?;
                ensure!(text.contains("sleep 4321"), "the other's process is not in {text:?}");
                Ok(())
            },
        ),
        case(
            "the status tells the namespaces",
            "NamespaceOption of the sandbox's status",
            |run: Run| async move {
                let pod = run.pod().await?;
                let linux = run.pod_status(&pod.id).await?.linux.unwrap_or_default();
                let options = linux.namespaces.and_then(|n| n.options).unwrap_or_default();
                same("network", options.network(), v1::NamespaceMode::Node)?;
                same("pid", options.pid(), v1::NamespaceMode::Container)
            },
        ),
    ]
}

fn namespace(pid: i32, kind: &str) -> Outcome<String> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?.to_string_lossy().into_owned())
}

fn namespace_of_node(kind: &str) -> Outcome<String> {
    Ok(std::fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned())
}
