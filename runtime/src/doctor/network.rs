//! The pod network's share of the comparison: leases, interfaces, bridge, packet filter. Pure.
//!
//! In: a [`Case`]. Out: findings.

use std::path::Path;

use pintle_cni::{FoundLease, FoundLink, Table};

use super::{Finding, Kind, Remedy, compare::Case};
use crate::engine::records::{NamespaceMode, SandboxRecord};

pub(super) fn compare(case: Case<'_>) -> Vec<Finding> {
    let network = &case.found.network;
    let mut findings: Vec<Finding> = network
        .leases
        .iter()
        .filter(|lease| !is_due(case, lease))
        .map(|lease| surplus_lease(case, lease))
        .collect();
    findings.extend(network.void_leases.iter().map(|(path, reason)| void_lease(path, reason)));
    findings.extend(network.links.iter().filter(|link| !is_used(case, link)).map(surplus_link));
    let own_network = |record: &&SandboxRecord| record.config.network != NamespaceMode::Node;
    findings.extend(case.expected.must_run().filter(own_network).filter_map(|record| lack(case, record)));
    findings.extend(host_wide(case));
    findings
}

/// Whether somebody has the address, or the engine is about to give it back.
fn is_due(case: Case<'_>, lease: &FoundLease) -> bool {
    match lease.releasing {
        true => case.in_work(lease.written),
        false => case.expected.may_have_address(&lease.sandbox),
    }
}

fn is_used(case: Case<'_>, link: &FoundLink) -> bool {
    let lease = case.found.network.leases.iter().find(|lease| lease.interface == link.name);
    lease.is_some_and(|lease| is_due(case, lease))
}

fn surplus_lease(case: Case<'_>, lease: &FoundLease) -> Finding {
    let what = match (lease.releasing, case.running) {
        (true, true) => "address that was given back and whose interface does not go",
        (true, false) => "address that was being given back when the engine ended",
        (false, _) => "address of a sandbox that has no record or was stopped",
    };
    Finding::surplus(Kind::Lease, lease.ip.to_string(), what)
        .ours("its file is below the state directory")
        .step("StopPodSandbox detaches the pod, and the address goes with the interface")
        .since(lease.written)
        .owner(&lease.sandbox)
        .remedy(Remedy::ReleaseLease { sandbox: lease.sandbox.clone(), ip: lease.ip })
}

fn void_lease(path: &Path, reason: &str) -> Finding {
    let what = format!("file among the leases that is none: {reason}");
    Finding::surplus(Kind::File, path.display().to_string(), what)
        .ours("it is below the state directory")
        .step("opening the pod network deletes void leases")
        .remedy(Remedy::RemoveFile(path.to_owned()))
}

fn surplus_link(link: &FoundLink) -> Finding {
    let (what, ours, remedy) = match (&link.sandbox, link.ours) {
        (Some(sandbox), true) => (
            format!("interface of sandbox {sandbox}, which has no address"),
            "its alias names this instance's bridge",
            Remedy::DeleteLink(link.name.clone()),
        ),
        (None, true) => (
            "interface without a mark on the pods' bridge".to_owned(),
            "it is a veth with a name of ours on this instance's bridge",
            Remedy::DeleteLink(link.name.clone()),
        ),
        (_, false) => (
            "interface that is not Pintle's on the pods' bridge".to_owned(),
            "only the bridge is; the interface is not known to be",
            Remedy::None(format!(
                "it may be somebody else's: `ip link set {} nomaster` takes it off",
                link.name
            )),
        ),
    };
    let finding = Finding::surplus(Kind::Interface, &link.name, what)
        .ours(ours)
        .step("StopPodSandbox detaches the pod, and the interface is deleted a moment later")
        .remedy(remedy);
    match &link.sandbox {
        Some(sandbox) => finding.owner(sandbox),
        None => finding,
    }
}

/// What a living sandbox's network lacks, the first thing only: the rest follows from it.
fn lack(case: Case<'_>, record: &SandboxRecord) -> Option<Finding> {
    let network = &case.found.network;
    let lease = network.leases.iter().find(|lease| lease.sandbox == record.id && !lease.releasing);
    let of = |kind, what: &str| {
        Finding::lack(
            kind,
            &record.id,
            format!("sandbox of pod {}/{} {what}", record.config.namespace, record.config.name),
        )
        .ours("its record is below the state directory")
        .step("RunPodSandbox attached it")
        .owner(&record.id)
        .remedy(Remedy::None("the agent replaces the pod; `pintle rmp` removes it".to_owned()))
    };
    let Some(lease) = lease else { return Some(of(Kind::Lease, "has no address")) };
    let link = network.links.iter().find(|link| link.name == lease.interface);
    match link {
        None => Some(of(Kind::Interface, "has no interface")),
        Some(link) if !link.port => Some(of(Kind::Interface, "has an interface that is not on the bridge")),
        Some(_) => None,
    }
}

/// Bridge and table outlive pods, but not the taking down of the network.
fn host_wide(case: Case<'_>) -> Vec<Finding> {
    let network = &case.found.network;
    let mut findings = Vec::new();
    let tagged = "its name carries the instance's tag";
    if network.bridge && !network.opened {
        let remedy = Remedy::None("`pintle cleanup` removes it".to_owned());
        let finding =
            Finding::surplus(Kind::Bridge, &case.layout.bridge, "bridge of a network that was taken down");
        findings.push(finding.ours(tagged).step("`pintle cleanup` removes it").remedy(remedy));
    }
    let table = |finding: Finding| finding.ours(tagged).remedy(Remedy::ReplaceTable);
    match &network.table {
        Table::Wrong(wrong) => {
            let what = format!("not as Pintle makes it: {}", wrong.join(", "));
            let finding = Finding::surplus(Kind::Nftables, &case.layout.nft_table, what);
            findings.push(table(finding).step("the table is replaced as a whole when the first pod comes"));
        }
        Table::Sound if !network.opened && !network.bridge => {
            let what = "table of a network that was taken down";
            let finding = Finding::surplus(Kind::Nftables, &case.layout.nft_table, what);
            findings.push(table(finding).step("`pintle cleanup` removes it"));
        }
        Table::Absent if network.bridge && network.leases.iter().any(|lease| !lease.releasing) => {
            let what = "no masquerade: pods do not reach the outside";
            let finding = Finding::lack(Kind::Nftables, &case.layout.nft_table, what);
            findings.push(table(finding).step("the first pod's attachment makes it; somebody removed it"));
        }
        Table::Sound | Table::Absent | Table::Unsupported => {}
    }
    findings
}
