//! Waypoints and gateways: which workload stands for one, and whether somebody is one.

use std::{net::SocketAddr, sync::Arc};

use super::outgoing::Outgoing;
use crate::mesh::{
    Ask, Endpoint, Gateway, GatewayDestination, NetworkAddress, Service, View, Workload, pick,
};

/// A waypoint or gateway that was found.
pub(super) struct GatewayChoice<'a> {
    pub(super) endpoint: Endpoint<'a>,
    /// Of which service it is, if it was found by one.
    pub(super) service: Option<&'a Arc<Service>>,
}

/// The waypoint of a service for one connection: of several one by weight.
pub(super) fn sampled(service: &Service, random: u64) -> Option<&Gateway> {
    let weighted = &service.weighted_waypoints;
    let sum: u64 = weighted.iter().map(|(_, weight)| u64::from(*weight)).sum();
    // Other bits than those that choose the endpoint.
    let mut at = random.rotate_right(32).checked_rem(sum);
    let sampled = weighted.iter().find(|(_, weight)| {
        let left = at.and_then(|at| at.checked_sub(u64::from(*weight)));
        let is_it = left.is_none() && at.is_some();
        at = left;
        is_it
    });
    sampled.map(|(gateway, _)| gateway).or(service.waypoint.as_ref()).map(|gateway| &**gateway)
}

/// The workload that takes this connection for a waypoint, or for a gateway.
pub(super) fn find<'a>(
    mesh: &'a View,
    gateway: &'a Gateway,
    (call, is_waypoint): (&Outgoing<'_>, bool),
) -> Option<GatewayChoice<'a>> {
    let port = gateway.hbone_port;
    let of = |service: &'a Arc<Service>| {
        let called = SocketAddr::new(call.dst.ip(), port);
        let (from, random, avoided) = (call.from, call.random, call.avoided);
        let ask = Ask { from, called, is_waypoint, by_hbone: true, random, avoided };
        Some(GatewayChoice { endpoint: pick(mesh, service, &ask)?, service: Some(service) })
    };
    match &gateway.destination {
        GatewayDestination::Hostname { namespace, hostname } => {
            if let Some(service) = mesh.service(namespace, hostname) {
                return of(service);
            }
            // A waypoint is called by an address, and is of the network that it stands in.
            let named = mesh.workload_named(namespace, hostname).filter(|_| !is_waypoint);
            let endpoint = Endpoint { workload: named?, ip: None, port };
            Some(GatewayChoice { endpoint, service: None })
        }
        GatewayDestination::Address(NetworkAddress { network, ip }) => {
            match mesh.service_at(network, *ip, call.from.namespace()) {
                Some(service) => of(service),
                None => {
                    let workload = mesh.workload_at(network, *ip)?;
                    let endpoint = Endpoint { workload, ip: Some(*ip), port };
                    let is_tried = |at| call.avoided.tried.contains(&at);
                    if endpoint.address(mesh).is_some_and(is_tried) {
                        return None;
                    }
                    Some(GatewayChoice { endpoint, service: None })
                }
            }
        }
    }
}

/// Whether a workload is one that a waypoint leads to.
pub(super) fn leads_to(mesh: &View, waypoint: &Gateway, workload: &Workload) -> bool {
    match &waypoint.destination {
        GatewayDestination::Hostname { namespace, hostname } => {
            workload.membership(namespace, hostname).is_some()
        }
        GatewayDestination::Address(NetworkAddress { network, ip }) => {
            let service = mesh.service_at(network, *ip, workload.namespace());
            service.is_some_and(|service| service.is_backed_by(workload))
                || mesh.workload_at(network, *ip).is_some_and(|there| there.uid == workload.uid)
        }
    }
}
