//! Host ports on the real kernel: who reaches a pod by them, as whom, and that they go when the pod goes.
//!
//! Each test runs in a network namespace of its own that stands for the host.

#![allow(clippy::unwrap_used, reason = "lints do not know helpers of tests")]

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use lab::{Lab, Pod, in_lab, patience, run, tear_down, whoami};
use pintle_cni::{Error, HostPort, Protocol, Status, Table};

fn port(protocol: Protocol, host_port: u16, pod_port: u16) -> HostPort {
    HostPort { protocol, host_ip: None, host_port, pod_port }
}

fn tcp(host_port: u16) -> HostPort {
    port(Protocol::Tcp, host_port, 80)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A machine behind the host's uplink.
fn outside() -> Pod {
    let outside = Pod::new("outside");
    run("ip", &["link", "add", "up-host", "type", "veth", "peer", "name", "up-out"]);
    run("ip", &["link", "set", "up-out", "netns", &outside.tid()]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "up-host"]);
    run("ip", &["addr", "add", "192.0.2.3/24", "dev", "up-host"]);
    run("ip", &["link", "set", "up-host", "up"]);
    outside.run(|| {
        run("ip", &["addr", "add", "192.0.2.2/24", "dev", "up-out"]);
        run("ip", &["link", "set", "up-out", "up"]);
    });
    outside
}

/// Serves at a port of the calling thread's namespace: tells each caller a name and the address it sees.
fn serve(at: u16, name: &'static str, callers: usize) {
    let listener = TcpListener::bind(("::", at)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().take(callers) {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            stream.write_all(format!("{name} {peer}").as_bytes()).unwrap();
        }
    });
}

/// Whether nobody answers there.
fn is_closed(at: IpAddr, port: u16) -> bool {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(at, port), Duration::from_millis(500));
    let Ok(mut stream) = stream else { return true };
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    !matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// Answers every datagram with a name.
fn serve_udp(at: u16, name: &'static str) {
    let socket = UdpSocket::bind(("0.0.0.0", at)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            if buffer[0] == b'q' || socket.send_to(name.as_bytes(), peer).is_err() {
                return;
            }
        }
    });
}

/// Asks by one datagram; what came late is thrown away before.
fn ask(client: &UdpSocket, at: &str) -> Option<String> {
    let mut buffer = [0; 64];
    client.set_nonblocking(true).unwrap();
    while client.recv(&mut buffer).is_ok() {}
    client.set_nonblocking(false).unwrap();
    client.send_to(b"?", at).unwrap();
    let length = client.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn table(lab: &Lab) -> Table {
    pintle_cni::inspect(&lab.config()).unwrap().table
}

#[test]
fn r08_a_host_port_leads_to_the_pod_from_outside_the_node_another_pod_and_itself() {
    in_lab(|lab| {
        let outside = outside();
        let network = lab.open();
        let (pod, other) = (Pod::new("a"), Pod::new("b"));
        let at = pod.attach_with(&network, &[tcp(8080)]).unwrap();
        let at_other = other.attach(&network).unwrap();
        for switch in ["0", "1"] {
            fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", switch).unwrap();
            pod.run(|| serve(80, "pod", 6));
            // The pod sees the true client where that can be.
            assert_eq!(outside.run(|| whoami(ip("192.0.2.1"), 8080)), "pod 192.0.2.2");
            assert_eq!(whoami(ip("192.0.2.1"), 8080), "pod 192.0.2.1");
            assert_eq!(whoami(ip("127.0.0.1"), 8080), "pod 10.88.7.1");
            assert_eq!(whoami(at.gateway, 8080), "pod 10.88.7.1");
            assert_eq!(other.run(|| whoami(ip("192.0.2.1"), 8080)), "pod 10.88.7.1");
            assert_eq!(pod.run(|| whoami(ip("192.0.2.1"), 8080)), "pod 10.88.7.1");
        }
        // Between pods nothing has changed.
        pod.run(|| serve(80, "pod", 1));
        assert_eq!(other.run(|| whoami(at.ip, 80)), format!("pod {}", at_other.ip));
        assert!(outside.run(|| is_closed(ip("192.0.2.1"), 8081)));
        assert_eq!((network.status(), table(lab)), (Status::Ready, Table::Sound));
        network.detach("a").unwrap();
        assert!(outside.run(|| is_closed(ip("192.0.2.1"), 8080)) && is_closed(ip("127.0.0.1"), 8080));
        tear_down(network);
        run("ip", &["link", "del", "up-host"]);
    });
}

#[test]
fn a_host_port_is_at_one_address_or_at_all_and_of_one_protocol() {
    in_lab(|lab| {
        let outside = outside();
        let network = lab.open();
        let (pod, other) = (Pod::new("a"), Pod::new("b"));
        let at = |host_ip: &str| HostPort { host_ip: Some(ip(host_ip)), ..tcp(8080) };
        pod.attach_with(&network, &[at("192.0.2.1")]).unwrap();
        other.attach_with(&network, &[at("192.0.2.3"), port(Protocol::Udp, 8080, 53)]).unwrap();
        pod.run(|| serve(80, "first", 1));
        other.run(|| serve(80, "second", 1));
        other.run(|| serve_udp(53, "udp"));
        outside.run(|| {
            assert_eq!(whoami(ip("192.0.2.1"), 8080), "first 192.0.2.2");
            assert_eq!(whoami(ip("192.0.2.3"), 8080), "second 192.0.2.2");
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client.set_read_timeout(Some(patience())).unwrap();
            assert_eq!(ask(&client, "192.0.2.1:8080").unwrap(), "udp");
        });
        assert!(is_closed(ip("127.0.0.1"), 8080));
        assert_eq!(table(lab), Table::Sound);
        tear_down(network);
        run("ip", &["link", "del", "up-host"]);
    });
}

#[test]
fn a_host_port_has_one_holder_who_is_named_and_is_free_when_he_is_gone() {
    in_lab(|lab| {
        let network = lab.open();
        let (pod, other) = (Pod::new("a"), Pod::new("b"));
        pod.attach_with(&network, &[tcp(8080), tcp(8081)]).unwrap();
        let at = HostPort { host_ip: Some(ip("127.0.0.1")), ..tcp(8081) };
        let refused = other.attach_with(&network, &[tcp(9000), at]).unwrap_err();
        let Error::HostPortTaken { holder, port, .. } = &refused else { panic!("{refused}") };
        assert_eq!((holder.as_str(), *port), ("a", at));
        assert!(refused.to_string().contains("8081/TCP is taken by sandbox a"), "{refused}");
        assert_eq!(lab.leases().len(), 1, "nothing of the refused one is left");
        network.detach("a").unwrap();
        // At once, though the interface of the first may still be there.
        other.attach_with(&network, &[tcp(9000), at]).unwrap();
        for wrong in [tcp(0), HostPort { host_ip: Some(ip("fd00::1")), ..tcp(1) }] {
            let refused = Pod::new("c").attach_with(&network, &[wrong]).unwrap_err();
            assert!(matches!(refused, Error::HostPort { .. }) && !refused.is_retryable(), "{refused}");
        }
        tear_down(network);
    });
}

#[test]
fn udp_clients_that_keep_sending_follow_the_port_when_it_comes_and_goes() {
    in_lab(|lab| {
        let outside = outside();
        let network = lab.open();
        let (pod, next) = (Pod::new("a"), Pod::new("b"));
        serve_udp(5353, "node");
        let client = outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let ask = || ask(&client, "192.0.2.1:5353");
        assert_eq!(ask().unwrap(), "node");
        pod.attach_with(&network, &[port(Protocol::Udp, 5353, 53)]).unwrap();
        pod.run(|| serve_udp(53, "first"));
        assert_eq!(ask().unwrap(), "first");
        network.detach("a").unwrap();
        next.attach_with(&network, &[port(Protocol::Udp, 5353, 53)]).unwrap();
        next.run(|| serve_udp(53, "second"));
        assert_eq!(ask().unwrap(), "second");
        network.detach("b").unwrap();
        assert_eq!(ask().unwrap(), "node");
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"q", "127.0.0.1:5353").unwrap();
        tear_down(network);
        run("ip", &["link", "del", "up-host"]);
    });
}

#[test]
fn host_ports_survive_a_restart_and_those_of_the_dead_do_not() {
    in_lab(|lab| {
        let (pod, dead) = (Pod::new("a"), Pod::new("b"));
        {
            let network = lab.open();
            pod.attach_with(&network, &[tcp(8080)]).unwrap();
            dead.attach_with(&network, &[tcp(8081)]).unwrap();
        }
        let network = lab.open();
        pod.run(|| serve(80, "pod", 3));
        assert_eq!(whoami(ip("127.0.0.1"), 8080), "pod 10.88.7.1");
        network.reconcile(&["a".into()]).unwrap();
        assert_eq!(whoami(ip("127.0.0.1"), 8080), "pod 10.88.7.1");
        assert_eq!(table(lab), Table::Sound);
        let printed = run("nft", &["list", "ruleset"]);
        assert!(printed.contains("tcp . 8080") && !printed.contains("8081"), "{printed}");
        // Somebody flushes everything: reconciling puts it back, port and all.
        run("nft", &["flush", "ruleset"]);
        assert!(network.reconcile(&["a".into()]).unwrap().masquerade_restored);
        assert_eq!(whoami(ip("127.0.0.1"), 8080), "pod 10.88.7.1");
        // Giving it back works without the table, too.
        run("nft", &["flush", "ruleset"]);
        network.detach("a").unwrap();
        tear_down(network);
    });
}

#[test]
fn the_table_with_host_ports_can_be_printed_and_loaded_back_and_what_is_wrong_in_it_is_found() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let at = HostPort { host_ip: Some(ip("127.0.0.1")), ..port(Protocol::Sctp, 9, 7) };
        pod.attach_with(&network, &[tcp(8080), at]).unwrap();
        let printed = run("nft", &["list", "ruleset"]);
        for part in [
            "tcp . 8080 : 10.88.7.2 . 80",
            "127.0.0.1 . sctp . 9 : 10.88.7.2 . 7",
            "dnat ip to meta l4proto . th dport map @hostports",
            "dnat ip to ip daddr . meta l4proto . th dport map @hostports_at",
            "fib daddr type local jump hostports",
            "iifname \"ptl-test\" ip daddr 127.0.0.0/8 drop",
            "ct status dnat masquerade",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        let file = lab.state().join("rules.nft");
        fs::write(&file, &printed).unwrap();
        run("nft", &["flush", "ruleset"]);
        run("nft", &["-f", file.to_str().unwrap()]);
        fs::remove_file(file).unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]), printed);
        assert_eq!(table(lab), Table::Sound);
        run("nft", &["add element ip pintle-test hostports { tcp . 22 : 10.88.7.9 . 22 }"]);
        let Table::Wrong(wrong) = table(lab) else { panic!("a stray element is not found") };
        assert_eq!(wrong, ["host port 22/TCP to 10.88.7.9, which has no such port"]);
        assert!(pintle_cni::replace_table(&lab.config()).unwrap());
        assert_eq!(run("nft", &["list", "ruleset"]), printed);
        tear_down(network);
    });
}

#[test]
fn a_pod_does_not_reach_what_listens_at_the_nodes_loopback_address() {
    in_lab(|lab| {
        let network = lab.open();
        let (pod, other) = (Pod::new("a"), Pod::new("b"));
        let at = pod.attach_with(&network, &[tcp(8080)]).unwrap();
        other.attach(&network).unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/ptl-test/route_localnet").unwrap(), "1\n");
        let listener = TcpListener::bind("127.0.0.1:7777").unwrap();
        listener.set_nonblocking(true).unwrap();
        other.run(|| {
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            run("ip", &["route", "replace", "127.0.0.1/32", "via", &at.gateway.to_string(), "dev", "eth0"]);
        });
        let connects = || {
            let at = SocketAddr::new(ip("127.0.0.1"), 7777);
            other.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok())
        };
        assert!(!connects() && listener.accept().is_err(), "a pod reaches the node's loopback address");
        // It is the guard that keeps it off.
        run("nft", &["flush chain ip pintle-test guard"]);
        assert!(connects());
        tear_down(network);
    });
}

#[test]
fn host_ports_work_over_ipv6_too() {
    in_lab(|lab| {
        let outside = outside();
        run("ip", &["addr", "add", "fd00:2::1/64", "dev", "up-host", "nodad"]);
        outside.run(|| run("ip", &["addr", "add", "fd00:2::2/64", "dev", "up-out", "nodad"]));
        let network = pintle_cni::Network::open(lab.with_range("fd00:88:7::/112")).unwrap();
        let pod = Pod::new("a");
        let at = HostPort { host_ip: Some(ip("fd00:2::1")), ..tcp(9090) };
        let attachment = pod.attach_with(&network, &[tcp(8080), at]).unwrap();
        pod.run(|| serve(80, "pod", 4));
        assert_eq!(outside.run(|| whoami(ip("fd00:2::1"), 8080)), "pod fd00:2::2");
        assert_eq!(outside.run(|| whoami(ip("fd00:2::1"), 9090)), "pod fd00:2::2");
        assert_eq!(whoami(ip("fd00:2::1"), 8080), "pod fd00:2::1");
        assert_eq!(pod.run(|| whoami(ip("fd00:2::1"), 8080)), format!("pod {}", attachment.gateway));
        let printed = run("nft", &["list", "ruleset"]);
        assert!(printed.contains("tcp . 8080 : fd00:88:7::2 . 80"), "{printed}");
        assert_eq!(pintle_cni::inspect(&lab.with_range("fd00:88:7::/112")).unwrap().table, Table::Sound);
        tear_down(network);
        run("ip", &["link", "del", "up-host"]);
    });
}

#[test]
fn a_thousand_host_ports_fit() {
    in_lab(|lab| {
        let network = lab.open();
        let pods: Vec<Pod> = (0..4).map(|n| Pod::new(&format!("p{n}"))).collect();
        for (pod, first) in pods.iter().zip([1000, 2000, 3000, 4000]) {
            let ports: Vec<HostPort> = (first..first + 256).map(tcp).collect();
            pod.attach_with(&network, &ports).unwrap();
        }
        drop(network);
        let network = lab.open();
        // The first attach of a process makes the table anew, with all of them.
        Pod::new("last").attach_with(&network, &[tcp(1)]).unwrap();
        let count = run("nft", &["list", "ruleset"]).matches("tcp . ").count();
        assert_eq!((count, table(lab)), (1025, Table::Sound));
        tear_down(network);
    });
}
