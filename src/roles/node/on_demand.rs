//! What a connection needs of the mesh and is not known yet, where workloads and services are asked
//! for one by one. Which that is, is decided on one view of the mesh; only then it is asked for.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::{
    Node, Pod,
    pod::MOST_WAITING,
    route::{NoRoute, Route},
};
use crate::{
    hbone::connect::Authority,
    mesh::{GatewayDestination, NetworkAddress, View, Workload, source::xds::Answer},
    net::{CloseReason, Outcome},
};

/// How many resources one connection asks for, one after the other: an address, its waypoint, the
/// gateway to that …
const MOST_ASKED: usize = 4;
/// … and how long that may take.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// What a way of a connection lacks, as the control plane is asked for it.
pub(super) fn lacks(mesh: &View, way: &Result<Route, NoRoute>) -> Option<String> {
    let stranger = |ip: IpAddr| {
        let service = mesh.service_by_vip(ip, "").is_some();
        (!service && mesh.workload_by_ip(ip).is_none()).then(|| address_key(mesh, ip))
    };
    match way {
        Ok(Route::Passthrough(addr)) | Err(NoRoute::Egress(addr)) => stranger(addr.ip()),
        Err(NoRoute::NoWaypoint { waypoint, .. }) => Some(waypoint.clone()),
        Err(NoRoute::NoGateway { gateway, .. }) => gateway.clone(),
        _ => None,
    }
}

/// What is not known of whom a CONNECT request means, if it does not mean the pod by its address: a
/// service that the pod backs, or somebody whom it may stand for.
pub(super) fn lacks_destination(
    mesh: &View,
    workload: &Workload,
    authority: &Authority,
) -> Option<String> {
    match authority {
        Authority::Addr(addr) => {
            let ip = addr.ip().to_canonical();
            if workload.addresses.contains(&ip) || workload.template.app_tunnel.is_some() {
                return None;
            }
            let service = mesh.service_by_vip(ip, workload.namespace());
            let waypoint = match (service, mesh.workload_by_ip(ip)) {
                (Some(service), _) => service.waypoint.as_ref(),
                (None, Some(there)) => there.template.waypoint.as_ref(),
                (None, None) => return Some(address_key(mesh, ip)),
            };
            let unknown = waypoint.filter(|waypoint| !is_known(mesh, &waypoint.destination));
            unknown.map(|waypoint| waypoint.destination.to_string())
        }
        Authority::Host(host, _) => {
            let member = workload.services().iter().find(|member| *member.hostname == **host)?;
            let unknown = mesh.service(&member.namespace, &member.hostname).is_none();
            unknown.then(|| format!("{}/{}", member.namespace, member.hostname))
        }
    }
}

fn is_known(mesh: &View, destination: &GatewayDestination) -> bool {
    match destination {
        GatewayDestination::Hostname { namespace, hostname } => {
            mesh.service(namespace, hostname).is_some()
                || mesh.workload_named(namespace, hostname).is_some()
        }
        GatewayDestination::Address(NetworkAddress { network, ip }) => {
            mesh.service_at(network, *ip, "").is_some() || mesh.workload_at(network, *ip).is_some()
        }
    }
}

/// The key of an address of our own network.
fn address_key(mesh: &View, ip: IpAddr) -> String {
    let network = mesh.network().clone();
    GatewayDestination::Address(NetworkAddress { network, ip }).to_string()
}

impl Node {
    /// Whether it would help to ask for what is lacking.
    pub(super) fn may_ask(&self, lacking: Option<&str>) -> bool {
        let Some((xds, key)) = self.on_demand.as_ref().zip(lacking) else { return false };
        !xds.is_absent(key)
    }

    /// Asks for as much as `lacks` finds lacking, one after the other, and waits for it.
    ///
    /// # Errors
    /// The control plane did not say, or what it says cannot be used.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn hear(
        &self,
        pod: &Pod,
        lacks: impl Fn(&View) -> Option<String> + Send,
    ) -> Result<(), Outcome> {
        let Some(xds) = &self.on_demand else { return Ok(()) };
        let Ok(_place) = pod.waiting.try_acquire() else {
            let why = format!(
                "{MOST_WAITING} connections are already waiting for the control plane to describe \
                 the peers of pod {}",
                pod.name
            );
            return Err((CloseReason::Overloaded, Some(why)));
        };
        let mut asked = BTreeSet::new();
        let all = async {
            loop {
                let looked = Instant::now();
                let Some(key) = lacks(&self.mesh.load()) else { return Ok(()) };
                if asked.contains(&key) {
                    // Such as the address of a node, which a pod of its network has.
                    xds.no_help(&key);
                    return Ok(());
                }
                if xds.is_absent(&key) || asked.len() == MOST_ASKED {
                    return Ok(());
                }
                match xds.demand(&key, looked).await {
                    Some(Answer::Found | Answer::Absent) => {}
                    Some(Answer::Rejected) => return Err((key, "but its answer was rejected")),
                    None => return Err((key, "but has not answered yet")),
                }
                asked.insert(key);
            }
        };
        let heard = tokio::time::timeout(HEARD_WITHIN, all).await;
        let heard =
            heard.unwrap_or_else(|_| Err((String::new(), "but has not answered completely yet")));
        heard.map_err(|(key, what)| {
            let why = format!(
                "no healthy upstream: the control plane was asked what {key} is, {what} \
                 (XDS_ON_DEMAND=true)"
            );
            (CloseReason::NoHealthyUpstream, Some(why))
        })
    }

    /// Asks the control plane for the destination of a request that has come to a pod, and waits
    /// for the answer; what is not answered in time is refused by the check that follows.
    pub(super) async fn hear_destination(&self, pod: &Pod, authority: &Authority) {
        let lacks = |mesh: &View| {
            let workload = pod.workload(mesh).ok()?;
            lacks_destination(mesh, workload, authority)
        };
        let lacking = lacks(&self.mesh.load());
        if self.may_ask(lacking.as_deref()) {
            let _ = self.hear(pod, lacks).await;
        }
    }

    /// Asks who has an address, without waiting: later connections will know.
    pub(super) fn wonder(&self, mesh: &View, ip: IpAddr) {
        if let Some(xds) = &self.on_demand {
            xds.wonder(&address_key(mesh, ip));
        }
    }
}
