//! What holds between the workloads of a mesh file and the process that reads it.

use std::collections::{BTreeSet, HashMap};

use crate::{
    config::reader::Map,
    identity::TrustDomain,
    mesh::{NetnsRef, NonTcp, Protocol, Workload},
};

pub(super) fn check_node(top: &Map<'_>, node: Option<&str>, workloads: &[Workload]) {
    let nodes: BTreeSet<&str> = workloads.iter().filter_map(|w| w.node.as_deref()).collect();
    match (node, top.get("node")) {
        (None, None) if nodes.len() > 1 => top.of.fault(format!(
            "node is missing: workloads are on several nodes ({}), so name the one that this \
             process serves",
            nodes.into_iter().collect::<Vec<_>>().join(", ")
        )),
        (Some(node), Some(item)) if !nodes.contains(node) => {
            item.warn(format!("no workload is on node {node}"));
        }
        _ => {}
    }
}

/// Those that this process carries.
fn is_on(node: Option<&str>) -> impl Fn(&&Workload) -> bool {
    move |w| w.protocol() == Protocol::Hbone && (node.is_none() || w.node.as_deref() == node)
}

/// Two pods in one namespace would share its ports, and so each other's connections and keys.
pub(super) fn check_namespaces(
    top: &Map<'_>,
    node: Option<&str>,
    workloads: &[Workload],
    redirects: bool,
) {
    let mut seen = HashMap::new();
    for workload in workloads.iter().filter(is_on(node)) {
        if redirects && workload.netns().is_none() {
            top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
                "{} has no netns, so `capture: {{ rules: nft }}` would redirect the traffic of \
                 adit's own network namespace, perhaps the host's; name the pod's, or write \
                 `netns: /proc/self/ns/net` if that is what you want",
                workload.uid
            ));
        }
        if !redirects && workload.non_tcp() != NonTcp::Pass {
            top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
                "{} has `nonTcp: {}`, which needs capture rules made by adit: write `capture: {{ \
                 rules: nft }}`",
                workload.uid,
                workload.non_tcp().as_str()
            ));
        }
        let Some(other) = seen.insert(workload.netns(), &workload.uid) else { continue };
        let netns = workload.netns().map_or("no netns".into(), |n| format!("netns {n}"));
        top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
            "{other} and {} both have {netns}: each pod of this process needs a network \
             namespace of its own",
            workload.uid
        ));
    }
}

/// This node's source gives no SVIDs of another trust domain.
pub(super) fn check_trust_domains(
    top: &Map<'_>,
    node: Option<&str>,
    own: &TrustDomain,
    workloads: &[Workload],
) {
    let foreign = |w: &&Workload| w.id().trust_domain() != own;
    for workload in workloads.iter().filter(is_on(node)).filter(foreign) {
        top.get("workloads").unwrap_or(top.of.clone()).fault(format!(
            "{} is of trust domain {}, but this process, which would proxy it, has identities of \
             {own} only; name this process's `node`, and the workload's",
            workload.uid,
            workload.id().trust_domain()
        ));
    }
}

/// A broker asks for each pod by what its platform knows it by.
pub(super) fn check_references(
    top: &Map<'_>,
    node: Option<&str>,
    broker: &crate::credentials::broker::BrokerConfig,
    workloads: &[Workload],
) {
    let mut by_uid = HashMap::new();
    for workload in workloads.iter().filter(is_on(node)) {
        let list = || top.get("workloads").unwrap_or(top.of.clone());
        let pid = workload.netns().and_then(NetnsRef::pid);
        match (workload.pod_uid(), pid) {
            (Some(uid), _) => {
                if let Some(other) = by_uid.insert(uid, &workload.uid) {
                    list().fault(format!("{other} and {} both have uid {uid}", workload.uid));
                }
            }
            (None, Some(_)) if !broker.socket.is_remote() => {}
            (None, pid) => list().fault(format!(
                "uid is missing in {}: ca.broker asks for a pod by its UID{}",
                workload.uid,
                match pid {
                    Some(_) => ", because a process ID means nothing over TCP",
                    None => ", or by a process of it, as in `netns: pid:4711`",
                }
            )),
        }
    }
}
