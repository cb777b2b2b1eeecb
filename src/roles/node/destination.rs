//! Which application of a pod a CONNECT request means (istio-ambient facts §3.4).
//!
//! Whatever the authority says, the pod itself is dialled: an address must be the one that was
//! called, but for a pod that stands for others: a waypoint, or one that has an application tunnel.
//! A tunnel that arrived at an application's own port leads to that application.

use std::net::{IpAddr, SocketAddr};

use http::StatusCode;

use super::waypoint::leads_to;
use crate::{
    hbone::{HBONE_PORT, connect::Authority, server::Incoming},
    mesh::{Service, View, Workload},
    net::CloseReason,
    proxy::ingress::Refusal,
};

/// Where a request goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RequestTarget {
    /// The pod's own address and the application's port: what policy is asked about.
    pub(super) app: SocketAddr,
    /// What the caller meant, as an address: what the application may be told.
    pub(super) meant: SocketAddr,
}

/// The application that is meant: on this very pod, and never a port of ours.
pub(super) fn destination(
    mesh: &View,
    workload: &Workload,
    incoming: &Incoming,
    (local, own_ports): (SocketAddr, &[u16]),
) -> Result<RequestTarget, Refusal> {
    let refusal = |status, reason, why| Refusal { status, reason, why };
    let bad = |reason, why| refusal(StatusCode::BAD_REQUEST, reason, why);
    let unavailable = |reason, why| refusal(StatusCode::SERVICE_UNAVAILABLE, reason, why);
    if !incoming.is_connect() {
        return Err(bad(CloseReason::BadConnect, "the method is not CONNECT"));
    }
    let unparsable = bad(CloseReason::BadConnect, ":authority is not IP:port or hostname:port");
    let (port, meant) = match incoming.authority().ok_or(unparsable)? {
        Authority::Addr(addr) => {
            let ip = addr.ip().to_canonical();
            let own = ip == local.ip() && workload.addresses.contains(&ip);
            if !own && !stands_for(mesh, workload, ip) {
                let why = ":authority is not the address of the pod that was called";
                return Err(bad(CloseReason::AuthorityMismatch, why));
            }
            (addr.port(), SocketAddr::new(ip, addr.port()))
        }
        Authority::Host(host, port) => {
            let unknown = || {
                let why = ":authority is not a service and port that this pod serves";
                unavailable(CloseReason::AuthorityMismatch, why)
            };
            let service = backed(mesh, workload, &host).ok_or_else(unknown)?;
            let target = service_port(service, workload, port).ok_or_else(unknown)?;
            let meant = virtual_address(mesh, service, local.ip());
            let told = workload.template.app_tunnel.is_some_and(|tunnel| tunnel.proxy_protocol);
            if told && meant.is_none() {
                let why = "the service in :authority has no address to send in the PROXY header";
                return Err(unavailable(CloseReason::AuthorityMismatch, why));
            }
            (target, SocketAddr::new(meant.unwrap_or(local.ip()), port))
        }
    };
    if own_ports.contains(&port) {
        let why = "the port in :authority is one of adit's own";
        return Err(unavailable(CloseReason::DirectCall, why));
    }
    let fixed = workload.template.app_tunnel.and_then(|tunnel| tunnel.port);
    let app = SocketAddr::new(local.ip(), fixed.unwrap_or(port));
    // Who may call one port of the pod may not, for a NetworkPolicy, call another.
    if local.port() != HBONE_PORT && app.port() != local.port() {
        let why = "the port in :authority is not the one at which the tunnel arrived";
        return Err(refusal(StatusCode::FORBIDDEN, CloseReason::AuthorityMismatch, why));
    }
    Ok(RequestTarget { app, meant })
}

/// Whether a pod takes calls to another address: its application tunnel leads them all to one port,
/// or it is the waypoint of whoever has that address.
fn stands_for(mesh: &View, workload: &Workload, ip: IpAddr) -> bool {
    if workload.template.app_tunnel.is_some() {
        return true;
    }
    let of_service = mesh.service_by_vip(ip, workload.namespace());
    let waypoints = of_service.into_iter().flat_map(|service| {
        service.waypoint.iter().chain(service.weighted_waypoints.iter().map(|(way, _)| way))
    });
    let of_workload = mesh.workload_by_ip(ip).and_then(|there| there.template.waypoint.as_ref());
    waypoints.chain(of_workload).any(|waypoint| leads_to(mesh, waypoint, workload))
}

/// The service of a name that a pod is behind, and sees.
fn backed<'a>(mesh: &'a View, workload: &Workload, host: &str) -> Option<&'a Service> {
    let mut named = mesh.services_named(host).iter();
    let service = named.find(|service| {
        service.is_backed_by(workload) && service.is_visible_to(workload.namespace())
    });
    service.map(|service| &**service)
}

/// The port of a pod behind a service's port.
pub(super) fn service_port(service: &Service, workload: &Workload, port: u16) -> Option<u16> {
    let member = workload.membership(&service.namespace, &service.hostname)?;
    let own = member.ports.iter().find(|own| own.port == port).map(|own| own.target_port);
    let of_service = service.target_port(port)?;
    let fixed = workload.template.app_tunnel.is_some_and(|tunnel| tunnel.port.is_some());
    let given = |port: Option<u16>| port.filter(|port| *port != 0);
    given(own).or_else(|| given(Some(of_service))).or_else(|| fixed.then_some(port))
}

/// A virtual address of a service: of our own network, and of a family, if it has one.
fn virtual_address(mesh: &View, service: &Service, like: IpAddr) -> Option<IpAddr> {
    let near = || service.vips.iter().filter(|vip| vip.network == *mesh.network());
    let same = near().find(|vip| vip.ip.is_ipv4() == like.is_ipv4());
    same.or_else(|| near().next()).or_else(|| service.vips.first()).map(|vip| vip.ip)
}
