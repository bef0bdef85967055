//! Pods on the real kernel: what they get, whom they reach and as whom they are seen.
//!
//! Each test runs in a network namespace of its own that stands for the host.

#![allow(clippy::unwrap_used, reason = "lints do not know helpers of tests")]

mod lab;

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use lab::{Lab, Pod, in_lab, links, patience, pod_links, run, serve_whoami, tear_down, whoami};
use pintle_cni::{Attach, Error, Netns, Network, NetworkConfig, PodNetwork, Status};

#[test]
fn the_network_can_be_shared_between_threads_and_boxed() {
    fn shared<T: Send + Sync>() {}
    shared::<Network>();
    shared::<Box<dyn PodNetwork>>();
}

#[test]
fn a_pod_gets_an_address_and_reaches_the_gateway_and_the_node_reaches_the_pod() {
    in_lab(|lab| {
        let network = lab.open();
        assert_eq!(links(), ["lo"], "opening makes no interface");
        let pod = Pod::new("a");
        let attachment = pod.attach(&network).unwrap();
        assert_eq!(attachment.ip.to_string(), "10.88.7.2");
        assert_eq!(attachment.gateway.to_string(), "10.88.7.1");
        assert_eq!((attachment.prefix, attachment.interface.as_str()), (24, "eth0"));
        assert_eq!(pod_links(), std::slice::from_ref(&attachment.host_interface));
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
        let at_node = serve_whoami();
        assert_eq!(pod.run(|| whoami(attachment.gateway, at_node.port())), "10.88.7.2");
        let in_pod = pod.run(serve_whoami);
        assert_eq!(whoami(attachment.ip, in_pod.port()), "10.88.7.1");
        let shown = pod.run(|| run("ip", &["addr", "show", "eth0"]));
        assert!(shown.contains(&attachment.mac.to_string()) && shown.contains("brd 10.88.7.255"), "{shown}");
        network.check("a").unwrap();
        assert_eq!(network.status(), Status::Ready);
        tear_down(network);
    });
}

#[test]
fn loopback_is_up_inside() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        let seen = pod.run(|| whoami(IpAddr::from([127, 0, 0, 1]), serve_whoami().port()));
        assert_eq!(seen, "127.0.0.1");
        tear_down(network);
    });
}

#[test]
fn two_pods_see_each_others_real_address_even_when_bridged_traffic_passes_the_firewall() {
    in_lab(|lab| {
        let network = lab.open();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let at_a = a.attach(&network).unwrap();
        let at_b = b.attach(&network).unwrap();
        for switch in ["0", "1"] {
            fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", switch).unwrap();
            let server = b.run(serve_whoami);
            assert_eq!(a.run(|| whoami(at_b.ip, server.port())), at_a.ip.to_string());
            let server = a.run(serve_whoami);
            assert_eq!(b.run(|| whoami(at_a.ip, server.port())), at_b.ip.to_string());
        }
        tear_down(network);
    });
}

#[test]
fn a_pod_reaches_itself_through_a_service_address() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let attachment = pod.attach(&network).unwrap();
        let shown = run("ip", &["-d", "link", "show", &attachment.host_interface]);
        assert!(shown.contains("hairpin on"), "{shown}");
        let service = format!(
            "table ip svc {{
                chain pre {{ type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 dnat to {ip}; }}
                chain post {{ type nat hook postrouting priority srcnat; ip saddr {ip} ip daddr {ip} masquerade; }}
            }}",
            ip = attachment.ip
        );
        load_rules(lab, &service);
        let server = pod.run(serve_whoami);
        let seen = pod.run(|| whoami(IpAddr::from([10, 96, 0, 1]), server.port()));
        assert_eq!(seen, "10.88.7.1");
        run("nft", &["delete", "table", "ip", "svc"]);
        tear_down(network);
    });
}

/// A machine behind the host's uplink, which has no route to the pods.
fn outside() -> Pod {
    let outside = Pod::new("outside");
    run("ip", &["link", "add", "up-host", "type", "veth", "peer", "name", "up-out"]);
    run("ip", &["link", "set", "up-out", "netns", &outside.tid()]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "up-host"]);
    run("ip", &["link", "set", "up-host", "mtu", "1400", "up"]);
    run("ip", &["route", "add", "default", "via", "192.0.2.2"]);
    outside.run(|| {
        run("ip", &["addr", "add", "192.0.2.2/24", "dev", "up-out"]);
        run("ip", &["link", "set", "up-out", "up"]);
    });
    outside
}

#[test]
fn the_outside_sees_the_nodes_address_and_pods_have_the_uplinks_mtu() {
    in_lab(|lab| {
        let outside = outside();
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        let server = outside.run(serve_whoami);
        assert_eq!(pod.run(|| whoami(IpAddr::from([192, 0, 2, 2]), server.port())), "192.0.2.1");
        let shown = pod.run(|| run("ip", &["link", "show", "eth0"]));
        assert!(shown.contains("mtu 1400"), "{shown}");
        tear_down(network);
        run("ip", &["link", "del", "up-host"]);
    });
}

fn load_rules(lab: &Lab, rules: &str) {
    let file = lab.state().join("rules.nft");
    fs::write(&file, rules).unwrap();
    run("nft", &["-f", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
}

#[test]
fn the_nftables_table_can_be_printed_and_loaded_back() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        let printed = run("nft", &["list", "ruleset"]);
        let rule = "ip saddr 10.88.7.0/24 ip daddr != 10.88.7.0/24 oifname != \"ptl-test\" masquerade";
        assert!(printed.contains(rule), "{printed}");
        assert!(printed.contains("type nat hook postrouting priority srcnat; policy accept;"), "{printed}");
        run("nft", &["flush", "ruleset"]);
        load_rules(lab, &printed);
        assert_eq!(run("nft", &["list", "ruleset"]), printed);
        tear_down(network);
    });
}

#[test]
fn a_flushed_masquerade_is_told_and_put_back_once() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        let printed = run("nft", &["list", "ruleset"]);
        run("nft", &["flush", "ruleset"]);
        assert!(matches!(network.status(), Status::Degraded { reason } if reason.contains("masquerade")));
        assert!(network.reconcile(&["a".into()]).unwrap().masquerade_restored);
        assert_eq!(run("nft", &["list", "ruleset"]), printed);
        assert!(!network.reconcile(&["a".into()]).unwrap().masquerade_restored);
        assert_eq!(network.status(), Status::Ready);
        tear_down(network);
    });
}

#[test]
fn attaching_twice_gives_the_same_answer_and_repairs_what_is_broken() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let first = pod.attach(&network).unwrap();
        assert_eq!(pod.attach(&network).unwrap(), first);
        pod.run(|| run("ip", &["link", "set", "eth0", "down"]));
        let broken = network.check("a").unwrap_err();
        assert!(matches!(&broken, Error::Broken { problem, .. } if problem.contains("carrier")), "{broken}");
        assert_eq!(pod.attach(&network).unwrap(), first);
        network.check("a").unwrap();
        assert_eq!(lab.leases(), ["10.88.7.2"]);
        tear_down(network);
    });
}

#[test]
fn a_namespace_can_be_named_by_path() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let path = pod.path();
        let by_path = Attach { sandbox: "a", pod_uid: "u", netns: Netns::Path(&path), ports: &[] };
        let attachment = network.attach(&by_path).unwrap();
        assert_eq!(attachment, pod.attach(&network).unwrap());
        let missing = Attach { netns: Netns::Path("/proc/0/ns/net".as_ref()), sandbox: "b", ..by_path };
        assert!(matches!(network.attach(&missing), Err(Error::OpenNetns { .. })));
        tear_down(network);
    });
}

#[test]
fn the_hosts_own_namespace_and_odd_ids_are_refused() {
    in_lab(|lab| {
        let network = lab.open();
        let own = Attach {
            sandbox: "a",
            pod_uid: "u",
            netns: Netns::Path("/proc/thread-self/ns/net".as_ref()),
            ports: &[],
        };
        assert!(matches!(network.attach(&own), Err(Error::HostNetns { .. })));
        for sandbox in ["", "a:b", "../x", &"x".repeat(129)] {
            assert!(matches!(network.attach(&Attach { sandbox, ..own }), Err(Error::SandboxId { .. })));
            assert!(matches!(network.detach(sandbox), Err(Error::SandboxId { .. })));
        }
        let long = Attach { pod_uid: &"u".repeat(257), ..own };
        assert!(matches!(network.attach(&long), Err(Error::PodUid { length: 257, .. })));
        assert!(lab.leases().is_empty());
        tear_down(network);
    });
}

#[test]
fn many_threads_attach_and_detach_at_once_without_sharing_an_address() {
    in_lab(|lab| {
        let network = lab.open();
        let pods: Vec<Pod> = (0..40).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        let attach_all = |pods: &[Pod]| -> Vec<IpAddr> {
            pods.iter().map(|pod| pod.attach(&network).unwrap().ip).collect()
        };
        let mut ips: Vec<IpAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = pods.chunks(5).map(|chunk| scope.spawn(|| attach_all(chunk))).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), pods.len());
        std::thread::scope(|scope| {
            for chunk in pods.chunks(5) {
                scope.spawn(|| chunk.iter().for_each(|pod| network.detach(&pod.id).unwrap()));
            }
        });
        network.settle(patience()).unwrap();
        assert!(pod_links().is_empty() && lab.leases().is_empty());
        tear_down(network);
    });
}

#[test]
fn detaching_with_or_without_the_namespace_leaves_neither_interface_nor_lease() {
    in_lab(|lab| {
        let network = lab.open();
        let (living, dying) = (Pod::new("living"), Pod::new("dying"));
        living.attach(&network).unwrap();
        dying.attach(&network).unwrap();
        drop(dying);
        for id in ["living", "dying", "never-was", "living"] {
            network.detach(id).unwrap();
        }
        network.settle(patience()).unwrap();
        assert!(pod_links().is_empty() && lab.leases().is_empty());
        assert!(matches!(network.check("living"), Err(Error::NotAttached { .. })));
        let again = living.attach(&network).unwrap();
        assert_eq!(again.ip.to_string(), "10.88.7.4", "no address is used again at once");
        network.detach("living").unwrap();
        assert_eq!(living.attach(&network).unwrap().ip.to_string(), "10.88.7.5", "without waiting, too");
        tear_down(network);
    });
}

#[test]
fn a_network_of_ipv6_works_without_waiting_for_duplicate_detection() {
    in_lab(|lab| {
        let network = Network::open(lab.with_range("fd00:88::/64")).unwrap();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let at_a = a.attach(&network).unwrap();
        let at_b = b.attach(&network).unwrap();
        let shown = a.run(|| run("ip", &["-6", "addr", "show", "eth0"]));
        assert!(shown.contains("fd00:88::2/64 scope global nodad"), "{shown}");
        assert!(b.run(|| run("ip", &["-6", "route"])).contains("default via fd00:88::1"));
        assert_eq!((at_a.ip.to_string(), at_b.ip.to_string()), ("fd00:88::2".into(), "fd00:88::3".into()));
        let server = b.run(serve_whoami);
        assert_eq!(a.run(|| whoami(at_b.ip, server.port())), "fd00:88::2");
        assert!(
            run("nft", &["list", "ruleset"]).contains("ip6 saddr fd00:88::/64 ip6 daddr != fd00:88::/64")
        );
        tear_down(network);
    });
}

#[test]
fn two_networks_on_one_host_leave_each_other_alone() {
    in_lab(|lab| {
        let other = NetworkConfig {
            state_dir: lab.state().join("other"),
            bridge: "ptl-other".into(),
            nft_table: "pintle-other".into(),
            pod_cidr: None,
            mtu: Some(1300),
        };
        let network = lab.open();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        a.attach(&network).unwrap();
        let second = Network::open(other.clone()).unwrap();
        assert_eq!(second.pod_cidr().to_string(), "10.88.0.0/24");
        b.attach(&second).unwrap();
        assert_eq!(second.reconcile(&["b".into()]).unwrap(), Default::default());
        assert_eq!(network.reconcile(&["a".into()]).unwrap(), Default::default());
        tear_down(second);
        network.check("a").unwrap();
        assert_eq!(network.status(), Status::Ready);
        assert_eq!(pod_links().len(), 1);
        tear_down(network);
        fs::remove_dir(other.state_dir).unwrap();
    });
}

#[test]
fn settling_an_idle_network_takes_no_time() {
    in_lab(|lab| {
        let network = lab.open();
        network.settle(Duration::ZERO).unwrap();
        tear_down(network);
    });
}
