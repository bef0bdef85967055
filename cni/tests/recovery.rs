//! Crashes, reboots, exhaustion, collisions and meddling: the network ends in order, with nothing left.
//!
//! Each test runs in a network namespace of its own that stands for the host. A crash is played by leaving on disk and
//! in the kernel what it would leave, and opening the network again.

#![allow(clippy::unwrap_used, reason = "lints do not know helpers of tests")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::{Lab, Pod, in_lab, links, patience, pod_links, run, serve_whoami, tear_down, whoami};
use pintle_cni::{Error, Network, NetworkConfig, Reconciled, Released, Status};

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// A lease as an earlier process left it.
fn write_lease(lab: &Lab, sandbox: &str, last: u8, boot_id: &str) {
    let ip = format!("10.88.7.{last}");
    let text = format!(
        r#"{{"version":1,"state":"held","sandbox":"{sandbox}","pod_uid":"u","boot_id":"{boot_id}",
            "ip":"{ip}","mac":"0e:50:0a:58:07:{last:02x}","interface":"pv0123456789ab"}}"#
    );
    fs::create_dir_all(lab.state().join("leases")).unwrap();
    fs::write(lab.lease_path(&ip), text).unwrap();
}

#[test]
fn a_crash_between_intent_and_interface_is_finished_by_the_next_attach() {
    in_lab(|lab| {
        write_lease(lab, "a", 9, &boot_id());
        let network = lab.open();
        let pod = Pod::new("a");
        assert_eq!(pod.attach(&network).unwrap().ip.to_string(), "10.88.7.9");
        network.check("a").unwrap();
        tear_down(network);
    });
}

#[test]
fn a_crash_between_intent_and_interface_is_undone_by_reconcile() {
    in_lab(|lab| {
        write_lease(lab, "a", 9, &boot_id());
        let network = lab.open();
        let report = network.reconcile(&[]).unwrap();
        let ip = "10.88.7.9".parse().unwrap();
        assert_eq!(report.released, [Released { sandbox: "a".into(), ip }]);
        assert!(lab.leases().is_empty());
        tear_down(network);
    });
}

#[test]
fn a_crash_between_interface_and_address_is_finished_by_the_next_attach() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let attachment = pod.attach(&network).unwrap();
        pod.run(|| run("ip", &["addr", "flush", "dev", "eth0"]));
        drop(network);
        let network = lab.open();
        assert_eq!(pod.attach(&network).unwrap(), attachment);
        let server = serve_whoami();
        assert_eq!(pod.run(|| whoami(attachment.gateway, server.port())), attachment.ip.to_string());
        tear_down(network);
    });
}

#[test]
fn a_restart_keeps_the_pods_connected_and_reconcile_frees_only_the_dead() {
    in_lab(|lab| {
        let network = lab.open();
        let (live, dead) = (Pod::new("live"), Pod::new("dead"));
        let at_live = live.attach(&network).unwrap();
        let at_dead = dead.attach(&network).unwrap();
        let server = live.run(serve_whoami);
        drop(network);
        let network = lab.open();
        assert_eq!(whoami(at_live.ip, server.port()), "10.88.7.1");
        let report = network.reconcile(&["live".into(), "host-network".into()]).unwrap();
        let expected = Reconciled {
            released: vec![Released { sandbox: "dead".into(), ip: at_dead.ip }],
            deleted_interfaces: vec![at_dead.host_interface],
            ..Reconciled::default()
        };
        assert_eq!(report, expected);
        assert_eq!(pod_links(), [at_live.host_interface]);
        assert_eq!(lab.leases(), ["10.88.7.2"]);
        network.check("live").unwrap();
        tear_down(network);
    });
}

#[test]
fn a_release_that_a_crash_interrupted_is_finished_at_the_next_start() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        drop(network);
        let path = lab.lease_path("10.88.7.2");
        let text = fs::read_to_string(&path).unwrap().replace("\"held\"", "\"releasing\"");
        fs::write(path, text).unwrap();
        let network = lab.open();
        network.settle(patience()).unwrap();
        assert!(pod_links().is_empty() && lab.leases().is_empty());
        tear_down(network);
    });
}

#[test]
fn an_interface_whose_lease_was_lost_is_deleted_and_its_pod_told_broken() {
    in_lab(|lab| {
        let network = lab.open();
        let (live, dead) = (Pod::new("live"), Pod::new("dead"));
        live.attach(&network).unwrap();
        dead.attach(&network).unwrap();
        drop(network);
        fs::remove_dir_all(lab.state().join("leases")).unwrap();
        let network = lab.open();
        let report = network.reconcile(&["live".into()]).unwrap();
        assert_eq!(report.broken, ["live"]);
        assert_eq!(report.deleted_interfaces.len(), 2);
        assert!(pod_links().is_empty());
        tear_down(network);
    });
}

#[test]
fn a_detach_without_a_lease_still_deletes_the_interface() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        drop(network);
        fs::remove_dir_all(lab.state().join("leases")).unwrap();
        let network = lab.open();
        network.detach("a").unwrap();
        network.settle(patience()).unwrap();
        assert!(pod_links().is_empty());
        tear_down(network);
    });
}

#[test]
fn leases_of_another_boot_are_void() {
    in_lab(|lab| {
        write_lease(lab, "a", 2, "00000000-0000-0000-0000-000000000000");
        let network = lab.open();
        assert!(lab.leases().is_empty());
        assert_eq!(Pod::new("b").attach(&network).unwrap().ip.to_string(), "10.88.7.2");
        tear_down(network);
    });
}

#[test]
fn a_used_up_range_is_told_as_such_and_recovers() {
    in_lab(|lab| {
        let network = Network::open(lab.with_range("10.88.7.0/29")).unwrap();
        let (freed, told) = std::sync::mpsc::channel();
        network.on_address_freed(move || freed.send(()).unwrap());
        let pods: Vec<Pod> = (0..6).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        for pod in &pods[..5] {
            pod.attach(&network).unwrap();
        }
        let error = pods[5].attach(&network).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address left in 10.88.7.0/29: 5 are leased, 0 of them being released"
        );
        assert!(error.is_retryable());
        assert_eq!(pod_links().len(), 5, "the failure left no interface");
        assert!(told.try_recv().is_err(), "no address was freed");
        network.detach("pod-3").unwrap();
        told.recv_timeout(lab::patience()).unwrap();
        assert_eq!(pods[5].attach(&network).unwrap().ip.to_string(), "10.88.7.5");
        tear_down(network);
    });
}

#[test]
fn an_address_rests_as_long_as_possible_also_across_a_restart() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        assert_eq!(pod.attach(&network).unwrap().ip.to_string(), "10.88.7.2");
        network.detach("a").unwrap();
        network.settle(patience()).unwrap();
        drop(network);
        let network = lab.open();
        assert_eq!(pod.attach(&network).unwrap().ip.to_string(), "10.88.7.3");
        tear_down(network);
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.run(|| run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "other"]));
        let error = pod.attach(&network).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        network.settle(patience()).unwrap();
        assert!(pod_links().is_empty() && lab.leases().is_empty());
        pod.run(|| run("ip", &["link", "del", "eth0"]));
        pod.attach(&network).unwrap();
        tear_down(network);
    });
}

#[test]
fn a_range_the_host_uses_is_refused_when_configured_and_avoided_when_chosen() {
    in_lab(|lab| {
        run("ip", &["link", "add", "taken", "type", "veth", "peer", "name", "other"]);
        run("ip", &["addr", "add", "10.88.0.1/16", "dev", "taken"]);
        let error = Network::open(lab.config()).unwrap_err();
        assert!(matches!(error, Error::RangeTaken { .. }), "{error}");
        assert!(error.to_string().contains("10.88.7.0/24 overlaps 10.88.0.0/16"), "{error}");
        let choose = NetworkConfig { pod_cidr: None, ..lab.config() };
        let network = Network::open(choose.clone()).unwrap();
        assert_eq!(network.pod_cidr().to_string(), "10.89.0.0/24");
        Pod::new("a").attach(&network).unwrap();
        drop(network);
        run("ip", &["link", "del", "taken"]);
        let network = Network::open(choose).unwrap();
        assert_eq!(network.pod_cidr().to_string(), "10.89.0.0/24", "a restart keeps the choice");
        tear_down(network);
    });
}

#[test]
fn a_changed_range_gives_a_pod_a_new_address() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        drop(network);
        let network = Network::open(lab.with_range("10.88.8.0/24")).unwrap();
        assert_eq!(network.reconcile(&["a".into()]).unwrap().broken, ["a"]);
        assert_eq!(pod.attach(&network).unwrap().ip.to_string(), "10.88.8.2");
        let addresses = run("ip", &["-4", "addr", "show", "ptl-test"]);
        assert!(addresses.contains("10.88.8.1/24") && !addresses.contains("10.88.7.1"), "{addresses}");
        network.settle(patience()).unwrap();
        assert_eq!(lab.leases(), ["10.88.8.2"]);
        tear_down(network);
    });
}

#[test]
fn a_deleted_bridge_is_told_broken_and_made_again() {
    in_lab(|lab| {
        let network = lab.open();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let before = a.attach(&network).unwrap();
        let mac = |text: String| text.split("link/ether ").nth(1).unwrap()[..17].to_owned();
        let bridge_mac = mac(run("ip", &["link", "show", "ptl-test"]));
        run("ip", &["link", "del", "ptl-test"]);
        assert!(matches!(network.check("a"), Err(Error::Broken { .. })));
        assert_eq!(network.reconcile(&["a".into()]).unwrap().broken, ["a"]);
        b.attach(&network).unwrap();
        assert_eq!(a.attach(&network).unwrap(), before);
        network.check("a").unwrap();
        let server = serve_whoami();
        assert_eq!(a.run(|| whoami(before.gateway, server.port())), before.ip.to_string());
        assert_eq!(mac(run("ip", &["link", "show", "ptl-test"])), bridge_mac);
        tear_down(network);
    });
}

#[test]
fn an_interface_that_is_no_bridge_is_not_touched() {
    in_lab(|lab| {
        run("ip", &["link", "add", "ptl-test", "type", "veth", "peer", "name", "other"]);
        let network = lab.open();
        let error = Pod::new("a").attach(&network).unwrap_err();
        assert!(matches!(error, Error::Bridge(_)), "{error}");
        assert!(matches!(network.status(), Status::NotReady { reason } if reason.contains("not a bridge")));
        network.remove_all().unwrap();
        assert_eq!(links(), ["lo", "other", "ptl-test"]);
        run("ip", &["link", "del", "ptl-test"]);
    });
}

#[test]
fn a_masquerade_that_is_impossible_degrades_the_network_but_pods_are_attached() {
    in_lab(|lab| {
        // A table that another process owns cannot be replaced.
        let mut owner =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut commands = owner.stdin.take().unwrap();
        commands.write_all(b"add table ip pintle-test { flags owner; }\n").unwrap();
        while !run("nft", &["list", "tables"]).contains("pintle-test") {
            thread::sleep(Duration::from_millis(5));
        }
        let network = lab.open();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let at_a = a.attach(&network).unwrap();
        let at_b = b.attach(&network).unwrap();
        let server = b.run(serve_whoami);
        assert_eq!(a.run(|| whoami(at_b.ip, server.port())), at_a.ip.to_string());
        let status = network.status();
        assert!(
            matches!(&status, Status::Degraded { reason } if reason.contains("masquerade")),
            "{status:?}"
        );
        let live = ["a".to_owned(), "b".to_owned()];
        assert!(!network.reconcile(&live).unwrap().masquerade_restored);
        drop(commands);
        owner.wait().unwrap();
        assert!(network.reconcile(&live).unwrap().masquerade_restored);
        assert_eq!(network.status(), Status::Ready);
        tear_down(network);
    });
}

/// A small generator, so that every run tries the same sequences.
fn step(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[test]
fn any_interleaving_of_attach_detach_restart_and_reconcile_keeps_leases_and_interfaces_in_step() {
    in_lab(|lab| {
        let open = || Network::open(lab.with_range("10.88.7.0/28")).unwrap();
        let mut network = open();
        let pods: Vec<Pod> = (0..10).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        let (mut attached, mut state) = (BTreeMap::new(), 7);
        for _ in 0..400 {
            let pod = &pods[step(&mut state) % pods.len()];
            match step(&mut state) % 20 {
                0..=8 => {
                    let ip = pod.attach(&network).unwrap().ip;
                    assert_eq!(
                        *attached.entry(pod.id.clone()).or_insert(ip),
                        ip,
                        "an attached pod keeps its address"
                    );
                }
                9..=16 => {
                    network.detach(&pod.id).unwrap();
                    attached.remove(&pod.id);
                }
                17 => {
                    drop(network);
                    network = open();
                }
                _ => {
                    attached.remove(&pod.id);
                    let live: Vec<String> = attached.keys().cloned().collect();
                    assert!(network.reconcile(&live).unwrap().broken.is_empty());
                }
            }
            let ips: BTreeSet<_> = attached.values().collect();
            assert_eq!(ips.len(), attached.len(), "an address was given out twice");
        }
        network.settle(patience()).unwrap();
        assert_eq!(lab.leases().len(), attached.len());
        assert_eq!(pod_links().len(), attached.len());
        attached.keys().for_each(|id| network.check(id).unwrap());
        tear_down(network);
    });
}

#[test]
fn removing_everything_twice_is_fine_and_the_network_can_be_used_again() {
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        pod.attach(&network).unwrap();
        network.remove_all().unwrap();
        network.remove_all().unwrap();
        assert_eq!(links(), ["lo"]);
        drop(network);
        let network = lab.open();
        pod.attach(&network).unwrap();
        tear_down(network);
    });
}

#[test]
fn an_inspection_tells_what_there_is_and_takes_away_only_what_is_this_networks() {
    use pintle_cni::{Table, delete_link, drop_lease, inspect, replace_table};
    in_lab(|lab| {
        let network = lab.open();
        let pod = Pod::new("a");
        let attachment = pod.attach(&network).unwrap();
        let found = inspect(&lab.config()).unwrap();
        assert_eq!((found.bridge, found.opened, &found.table), (true, true, &Table::Sound));
        assert_eq!(found.links.len(), 1);
        assert_eq!((found.links[0].sandbox.as_deref(), found.links[0].ours), (Some("a"), true));
        assert_eq!((found.leases[0].sandbox.as_str(), found.leases[0].releasing), ("a", false));

        run("ip", &["link", "add", "theirs", "type", "veth", "peer", "name", "peer"]);
        run("ip", &["link", "set", "theirs", "master", "ptl-test"]);
        assert!(!delete_link(&lab.config(), "theirs").unwrap(), "it has no mark of ours");
        let ours = |link: &pintle_cni::FoundLink| link.name == "theirs" && link.port && !link.ours;
        assert!(inspect(&lab.config()).unwrap().links.iter().any(ours));
        run("ip", &["link", "del", "theirs"]);

        run("nft", &["add", "chain", "ip", "pintle-test", "planted"]);
        let wrong = Table::Wrong(vec!["chain planted".to_owned()]);
        assert_eq!(inspect(&lab.config()).unwrap().table, wrong);
        assert!(replace_table(&lab.config()).unwrap());
        assert_eq!(inspect(&lab.config()).unwrap().table, Table::Sound);

        assert!(!drop_lease(&lab.config(), "b", attachment.ip).unwrap(), "it is another sandbox's");
        assert!(drop_lease(&lab.config(), "a", attachment.ip).unwrap());
        assert!(delete_link(&lab.config(), &attachment.host_interface).unwrap());
        let found = inspect(&lab.config()).unwrap();
        assert!(found.leases.is_empty() && found.links.is_empty(), "{found:?}");
        tear_down(network);
    });
}
