//! The section `services` of the mesh file. It says which workloads are behind a service; the mesh
//! has that in the workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::addresses::{Taken, addresses};
use crate::{
    config::reader::{Item, Map},
    mesh::{Membership, Service, ServicePort, Workload},
    roles::node::OWN_PORTS,
};

pub(super) fn read_all(
    top: &Map<'_>,
    (workloads, whole): (&mut [Workload], bool),
    taken: &mut Taken,
) -> Vec<Service> {
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    let mut behind: BTreeMap<Arc<str>, Vec<Membership>> = BTreeMap::new();
    for item in top.list("services") {
        let map = item.map(&["hostname", "namespace", "addresses", "ports", "workloads"]);
        let Some(hostname) = map.require("hostname").and_then(|h| h.text()) else { continue };
        let hostname = hostname.to_ascii_lowercase();
        if !names.insert(hostname.clone()) {
            item.fault(format!("there is already a service {hostname}"));
        }
        let by_name = hostname.split('.').nth(1).unwrap_or("default").to_owned();
        let namespace = map.get("namespace").and_then(|n| n.text()).unwrap_or(by_name);
        let addresses = addresses(&map, &format!("service {hostname}"), taken);
        let mut service = Service::new(namespace.into(), hostname.into());
        service.vips = addresses.into_iter().map(Into::into).collect();
        let find = |w| reference(w, workloads, whole);
        for uid in map.list("workloads").iter().filter_map(find).collect::<BTreeSet<_>>() {
            let (namespace, hostname) = (service.namespace.clone(), service.hostname.clone());
            let member = Membership { namespace, hostname, ports: Box::default() };
            behind.entry(uid).or_default().push(member);
        }
        for item in map.list("ports") {
            let Some(port) = service_port(&item) else { continue };
            if service.ports.iter().any(|p| p.port == port.port) {
                item.fault(format!("port {} already exists", port.port));
            }
            service.ports.push(port);
        }
        all.push(service);
    }
    for workload in workloads {
        let Some(mut services) = behind.remove(&workload.uid) else { continue };
        services.sort_by(|a, b| a.key().cmp(&b.key()));
        Arc::make_mut(&mut workload.template).services = services.into();
    }
    all
}

/// A workload by its uid. One with a fault of its own is not known here.
fn reference(item: &Item<'_>, workloads: &[Workload], whole: bool) -> Option<Arc<str>> {
    let uid = item.text()?;
    if let Some(found) = workloads.iter().find(|w| *w.uid == *uid) {
        return Some(found.uid.clone());
    }
    if !whole {
        return None;
    }
    let near = workloads
        .iter()
        .map(|w| (strsim::damerau_levenshtein(&uid, &w.uid), &w.uid))
        .min()
        .map_or(String::new(), |(_, near)| format!("; did you mean {near}?"));
    item.fault(format!("there is no workload {uid}{near}"));
    None
}

fn service_port(item: &Item<'_>) -> Option<ServicePort> {
    let map = item.map(&["port", "targetPort", "name", "protocol"]);
    let read = |item: &Item<'_>| {
        let port = item.parse::<u16>("5432")?;
        match port {
            0 => item.fault("port 0 does not exist"),
            p if OWN_PORTS.contains(&p) => item.fault(format!("port {p} is adit's own")),
            _ => return Some(port),
        }
        None
    };
    if let Some(protocol) = map.get("protocol") {
        protocol.word(&[("TCP", ())]);
    }
    let port = read(&map.require("port")?)?;
    let target_port = map.get("targetPort").map_or(Some(port), |t| read(&t))?;
    Some(ServicePort { port, target_port })
}
