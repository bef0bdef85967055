//! How long a pod's network takes: medians of 100, printed, never asserted.
//!
//! `cargo nextest run -p pintle-cni --test bench --no-capture --run-ignored all`

#![allow(clippy::unwrap_used, reason = "lints do not know helpers of tests")]

mod lab;

use std::time::{Duration, Instant};

use lab::{Pod, in_lab, patience, pod_links, tear_down};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

#[test]
#[ignore = "prints figures"]
fn print_medians_of_100_pods() {
    in_lab(|lab| {
        let network = lab.open();
        let first = Pod::new("first");
        let cold = timed(|| drop(first.attach(&network).unwrap()));
        let pods: Vec<Pod> = (0..100).map(|n| Pod::new(&format!("pod-{n}"))).collect();
        let attach = pods.iter().map(|pod| timed(|| drop(pod.attach(&network).unwrap()))).collect();
        let again = pods.iter().map(|pod| timed(|| drop(pod.attach(&network).unwrap()))).collect();
        let check = pods.iter().map(|pod| timed(|| network.check(&pod.id).unwrap())).collect();
        let detach = pods.iter().map(|pod| timed(|| network.detach(&pod.id).unwrap())).collect();
        let settle = timed(|| network.settle(patience()).unwrap());
        println!("first attach (bridge, forwarding, nftables) {cold:?}");
        println!("attach {:?}, attach again {:?}, check {:?}", median(attach), median(again), median(check));
        println!("detach {:?}; then all 100 interfaces gone after {settle:?}", median(detach));

        let one_by_one = pods[..20].iter().map(|pod| {
            pod.attach(&network).unwrap();
            timed(|| {
                network.detach(&pod.id).unwrap();
                network.settle(patience()).unwrap();
            })
        });
        println!("detach and wait for one, window of 30 ms included {:?}", median(one_by_one.collect()));

        pods.iter().for_each(|pod| drop(pod.attach(&network).unwrap()));
        drop(pods);
        let dead = timed(|| while pod_links().len() > 1 {});
        println!("100 namespaces dropped: the kernel deletes the interfaces in {dead:?}");
        let ids: Vec<String> = vec!["first".into()];
        let reconcile = timed(|| drop(network.reconcile(&ids).unwrap()));
        println!("reconcile that frees 100 leases {reconcile:?}");
        tear_down(network);
    });
}
