//! Where a captured connection goes: decided on one view of the mesh, without waiting.
//!
//! Order (istio-ambient facts §9): a service's virtual address, then a workload's address, then the
//! unknown, which passes through. A waypoint is never passed by: if it cannot be reached, neither
//! can what is behind it. Not here: dialling.

use std::{net::SocketAddr, sync::Arc};

use super::{
    OWN_PORTS,
    outgoing::Outgoing,
    waypoint::{GatewayChoice, find, leads_to, sampled},
};
use crate::{
    hbone::{HBONE_PORT, Hop, Through},
    identity::{SpiffeId, TrustDomain, TrustDomainAliases},
    mesh::{
        Ask, Avoided, BalancingMode, Endpoint, EndpointAddress, Gateway, Protocol, Service, View,
        Workload, pick,
    },
    net::{CloseReason, OriginalDst},
    proxy::{egress::OutboundTrafficPolicy, original_port::OriginalPortHbone},
    tls::TunnelPort,
};

/// A decision.
#[derive(Clone, Debug)]
pub enum Route {
    /// HBONE to the destination pod itself, at port 15008 or that of the application, or to its
    /// waypoint.
    Hbone {
        /// The peer to call, and the identity that must answer.
        hop: Hop,
        /// The application behind it: the CONNECT authority.
        authority: SocketAddr,
        /// The workload that this reaches: the pod, or the waypoint.
        to: Arc<Workload>,
        /// The service that was called.
        service: Option<Arc<Service>>,
    },
    /// HBONE through the gateway of another network, with HBONE to the destination in it.
    DoubleHbone {
        /// The gateway, whom it is asked for, and who must answer in the other network.
        hop: Hop,
        /// The gateway's host name, where it has no address: one of it takes the place of the hop's,
        /// which is the one that was called, with the gateway's port.
        gateway: Option<Arc<str>>,
        /// The workload that this reaches.
        to: Arc<Workload>,
        /// The service that was called.
        service: Arc<Service>,
    },
    /// Plain TCP to a workload that is not in the mesh.
    Tcp {
        /// The address to dial.
        addr: SocketAddr,
        /// The workload that this reaches.
        to: Arc<Workload>,
        /// The service that was called.
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to a workload that has a host name in place of an address.
    Named {
        /// Its name.
        hostname: Arc<str>,
        /// Its port.
        port: u16,
        /// The address that was called: one of the same family is dialled if the name has one.
        called: SocketAddr,
        /// The workload that this reaches.
        to: Arc<Workload>,
        /// The service that was called.
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to what the mesh does not know.
    Passthrough(SocketAddr),
}

impl Route {
    /// The application that it leads to, as far as its address is known.
    #[must_use]
    pub fn app(&self) -> SocketAddr {
        match self {
            Self::Hbone { authority: addr, .. }
            | Self::DoubleHbone { hop: Hop { addr, .. }, .. }
            | Self::Tcp { addr, .. }
            | Self::Named { called: addr, .. }
            | Self::Passthrough(addr) => *addr,
        }
    }

    /// The endpoint that was chosen, of a service, waypoint or gateway; `None` if there was no
    /// choice.
    #[must_use]
    pub fn endpoint(&self) -> Option<EndpointAddress> {
        let ip = |addr: &SocketAddr| EndpointAddress::Ip(*addr);
        match self {
            Self::Hbone { authority, service, .. } if self.is_direct() => {
                service.as_ref().map(|_| ip(authority))
            }
            Self::DoubleHbone { hop, gateway: Some(name), .. } => {
                Some(EndpointAddress::Name(Arc::clone(name), hop.addr.port()))
            }
            Self::Hbone { hop, .. } | Self::DoubleHbone { hop, .. } => Some(ip(&hop.addr)),
            Self::Tcp { addr, service, .. } => service.as_ref().map(|_| ip(addr)),
            Self::Named { hostname, port, service, .. } => {
                service.as_ref().map(|_| EndpointAddress::Name(Arc::clone(hostname), *port))
            }
            Self::Passthrough(_) => None,
        }
    }

    /// This route, where the peer may also have its SPIFFE ID in an alias of the caller's trust
    /// domain.
    #[must_use]
    pub fn with_aliases(mut self, aliases: &TrustDomainAliases, own: &TrustDomain) -> Self {
        if let Self::Hbone { hop, .. } | Self::DoubleHbone { hop, .. } = &mut self {
            hop.add_aliases(aliases, own);
        }
        self
    }

    /// Whether it goes by HBONE, and nothing in clear text.
    #[must_use]
    pub fn is_by_hbone(&self) -> bool {
        matches!(self, Self::Hbone { .. } | Self::DoubleHbone { .. })
    }

    /// Whether nobody stands between us and the endpoint.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        match self {
            Self::Hbone { hop, authority, .. } => {
                let at_its_port = hop.port == TunnelPort::Original;
                hop.addr.ip() == authority.ip() && (at_its_port || hop.addr.port() == HBONE_PORT)
            }
            Self::DoubleHbone { .. } => false,
            Self::Tcp { .. } | Self::Named { .. } | Self::Passthrough(_) => true,
        }
    }
}

/// Why there is no route.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoRoute {
    /// The call was made to one of our own ports and not captured.
    #[error("{0} is a port of adit itself; connect to the application instead")]
    OwnPort(SocketAddr),
    /// The service exists, but not on this port.
    #[error("service {hostname} has no port {port}; it has {ports}")]
    NoPort {
        /// The service.
        hostname: Arc<str>,
        /// The port that was called.
        port: u16,
        /// Its ports.
        ports: String,
    },
    /// The service has no endpoint that can be reached.
    #[error("no healthy upstream: service {0} has no endpoint")]
    NoEndpoint(Arc<str>),
    /// The waypoint of the destination is not known.
    #[error("unknown waypoint {waypoint} of {of}")]
    NoWaypoint {
        /// The waypoint, `network/address` or `namespace/hostname`.
        waypoint: String,
        /// The service or workload.
        of: Arc<str>,
    },
    /// What is called is in another network, and nothing leads there.
    #[error("{of} is in network {network:?}, and no gateway to that network is known")]
    NoGateway {
        /// The workload.
        of: Arc<str>,
        /// Its network.
        network: Arc<str>,
        /// The gateway, where it is not known only who that is: `network/address` or
        /// `namespace/hostname`.
        gateway: Option<String>,
    },
    /// Nobody in the mesh has the address, and others may not be called.
    #[error(
        "{0} is not an address of the mesh, and ADIT_OUTBOUND_TRAFFIC_POLICY=REGISTRY_ONLY blocks \
         all others; a ServiceEntry adds it"
    )]
    Egress(SocketAddr),
    /// What is called is in another network, which services only are reached in.
    #[error("{0} is in another network; call it through a service")]
    NoService(Arc<str>),
}

impl NoRoute {
    /// What operators see for this failure.
    #[must_use]
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::OwnPort(_) => CloseReason::DirectCall,
            Self::Egress(_) => CloseReason::EgressDenied,
            _ => CloseReason::NoHealthyUpstream,
        }
    }
}

/// Decides for a connection of `from` to `dst`. `captured` is false if it
/// was made to our listener itself; `random` chooses among a service's endpoints, but for those to
/// be avoided; `policy` says whether destinations outside the mesh may be called, and `ports` at
/// which port pods are called.
///
/// # Errors
/// [`NoRoute`] if the destination is ours, or is known and cannot be reached.
pub fn decide(
    mesh: &View,
    from: &Workload,
    dst: OriginalDst,
    captured: bool,
    (random, avoided): (u64, &Avoided),
    (policy, ports): (OutboundTrafficPolicy, OriginalPortHbone),
) -> Result<Route, NoRoute> {
    let dst = dst.0;
    let ours = dst.ip().is_loopback() || from.addresses.contains(&dst.ip());
    if !captured || (ours && OWN_PORTS.contains(&dst.port())) {
        return Err(NoRoute::OwnPort(dst));
    }
    let call = Outgoing { from, dst, random, avoided, ports };
    match mesh.service_by_vip(dst.ip(), from.namespace()) {
        Some(service) => to_service(mesh, service, &call),
        None => match mesh.workload_by_ip(dst.ip()) {
            Some(to) => to_address(mesh, to, &call),
            None => match policy {
                OutboundTrafficPolicy::AllowAny => Ok(Route::Passthrough(dst)),
                OutboundTrafficPolicy::RegistryOnly => Err(NoRoute::Egress(dst)),
            },
        },
    }
}

fn to_service(mesh: &View, service: &Arc<Service>, call: &Outgoing<'_>) -> Result<Route, NoRoute> {
    let dst = call.dst;
    if let Some(waypoint) = sampled(service, call.random) {
        return through(mesh, (waypoint, &service.hostname), Some(service), call);
    }
    if service.mode() == BalancingMode::Passthrough {
        return Ok(Route::Passthrough(dst));
    }
    if service.target_port(dst.port()).is_none() {
        let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
        return Err(NoRoute::NoPort {
            hostname: service.hostname.clone(),
            port: dst.port(),
            ports: ports.join(", "),
        });
    }
    let (from, random, avoided) = (call.from, call.random, call.avoided);
    let ask = Ask { from, called: dst, is_waypoint: false, by_hbone: false, random, avoided };
    let none = || NoRoute::NoEndpoint(service.hostname.clone());
    let endpoint = pick(mesh, service, &ask).ok_or_else(none)?;
    let to = endpoint.workload;
    if to.network() != mesh.network() {
        return to_network(mesh, &endpoint, (service, service), call);
    }
    match (endpoint.ip, &to.template.hostname) {
        (Some(ip), _) => {
            let addr = SocketAddr::new(ip, endpoint.port);
            Ok(direct(to, addr, Some(service), call))
        }
        (None, Some(hostname)) => Ok(Route::Named {
            hostname: hostname.clone(),
            port: endpoint.port,
            called: dst,
            to: Arc::clone(to),
            service: Some(Arc::clone(service)),
        }),
        (None, None) => Err(none()),
    }
}

/// A workload was called by its address.
fn to_address(mesh: &View, to: &Arc<Workload>, call: &Outgoing<'_>) -> Result<Route, NoRoute> {
    match &to.template.waypoint {
        Some(waypoint) if !leads_to(mesh, waypoint, call.from) => {
            through(mesh, (waypoint, &to.uid), None, call)
        }
        _ => Ok(direct(to, call.dst, None, call)),
    }
}

/// To a workload itself.
fn direct(
    to: &Arc<Workload>,
    addr: SocketAddr,
    service: Option<&Arc<Service>>,
    call: &Outgoing<'_>,
) -> Route {
    let (to, service) = (Arc::clone(to), service.map(Arc::clone));
    match to.protocol() {
        Protocol::Hbone => {
            let expect = expected(&to, service.as_ref());
            let hop = match original_port(&to, addr, call) {
                Some(port) => Hop::at_original_port(SocketAddr::new(addr.ip(), port), expect),
                None => Hop::new(SocketAddr::new(addr.ip(), HBONE_PORT), expect),
            };
            Route::Hbone { hop, authority: addr, to, service }
        }
        Protocol::Tcp => Route::Tcp { addr, to, service },
    }
}

/// The application's port, if a tunnel is to go there: not to who takes tunnels by itself, which is
/// not captured; nor to the caller itself, of whom nothing is captured either; nor to where a
/// capture leads.
fn original_port(to: &Workload, addr: SocketAddr, call: &Outgoing<'_>) -> Option<u16> {
    let is_captured = !to.template.native_tunnel && !call.from.addresses.contains(&addr.ip());
    let fixed = to.template.app_tunnel.and_then(|tunnel| tunnel.port);
    let port = fixed.unwrap_or(addr.port());
    (call.ports.sends() && is_captured && !OWN_PORTS.contains(&port)).then_some(port)
}

/// Who may answer for a workload that was chosen for a service.
fn expected(to: &Workload, of: Option<&Arc<Service>>) -> Vec<SpiffeId> {
    let named = of.iter().flat_map(|service| service.subject_alt_names.iter());
    named.chain([to.id()]).cloned().collect()
}

/// Through the waypoint of a service or workload.
fn through(
    mesh: &View,
    (waypoint, of): (&Gateway, &Arc<str>),
    service: Option<&Arc<Service>>,
    call: &Outgoing<'_>,
) -> Result<Route, NoRoute> {
    let unknown = || {
        let waypoint = waypoint.destination.to_string();
        NoRoute::NoWaypoint { waypoint, of: Arc::clone(of) }
    };
    let GatewayChoice { endpoint, service: by } =
        find(mesh, waypoint, (call, true)).ok_or_else(unknown)?;
    let to = endpoint.workload;
    if to.network() != mesh.network() {
        let named = service.ok_or_else(|| NoRoute::NoService(Arc::clone(of)))?;
        return to_network(mesh, &endpoint, (named, by.unwrap_or(named)), call);
    }
    let ip = endpoint.ip.ok_or_else(unknown)?;
    let expect = expected(to, by);
    let hop = Hop::new(SocketAddr::new(ip, endpoint.port), expect);
    let (to, service) = (Arc::clone(to), service.map(Arc::clone));
    Ok(Route::Hbone { hop, authority: call.dst, to, service })
}

/// To a workload of another network, which `from` was asked for; the call was for `service`. Its own
/// identity is not told there: who may answer is what its service says.
fn to_network(
    mesh: &View,
    endpoint: &Endpoint<'_>,
    (service, from): (&Arc<Service>, &Arc<Service>),
    call: &Outgoing<'_>,
) -> Result<Route, NoRoute> {
    let to = endpoint.workload;
    let (of, network) = (&to.uid, to.network());
    let gateway = to.template.network_gateway.as_ref();
    let unknown = || NoRoute::NoGateway {
        of: Arc::clone(of),
        network: Arc::clone(network),
        gateway: gateway.map(|gateway| gateway.destination.to_string()),
    };
    let gateway = gateway.ok_or_else(unknown)?;
    let GatewayChoice { endpoint, service: by } =
        find(mesh, gateway, (call, false)).ok_or_else(unknown)?;
    let name = endpoint.workload.template.hostname.clone().filter(|_| endpoint.ip.is_none());
    let at = endpoint.ip.or(name.is_some().then_some(call.dst.ip()));
    let ip = at.ok_or_else(unknown)?;
    Ok(Route::DoubleHbone {
        gateway: name,
        hop: Hop {
            addr: SocketAddr::new(ip, endpoint.port),
            expect: from.subject_alt_names.clone(),
            port: TunnelPort::Hbone,
            through: Some(Arc::new(Through {
                gateway: expected(endpoint.workload, by),
                hostname: service.hostname.clone(),
                port: call.dst.port(),
            })),
        },
        to: Arc::clone(to),
        service: Arc::clone(service),
    })
}

#[cfg(test)]
mod tests; // src/roles/node/route/tests.rs
