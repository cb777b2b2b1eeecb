//! Where a captured connection goes: decided on one view of the mesh, without waiting.
//!
//! Order (istio-ambient facts §9): a service's virtual address, then a workload's address,
//! then the unknown, which passes through. Not here: dialling.

use std::{net::SocketAddr, sync::Arc};

use super::OWN_PORTS;
use crate::{
    hbone::{HBONE_PORT, Hop},
    mesh::{Ask, Protocol, Service, View, Workload, pick},
    net::{CloseReason, OriginalDst},
};

/// A decision.
#[derive(Clone, Debug)]
pub enum Route {
    /// HBONE to the destination pod's own port 15008.
    Hbone {
        /// Whom to call and who must answer.
        hop: Hop,
        /// The application behind it: the CONNECT authority.
        authority: SocketAddr,
        /// Whom this reaches.
        to: Arc<Workload>,
        /// The service that was called.
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to a workload that is not in the mesh.
    Tcp {
        /// Whom to dial.
        addr: SocketAddr,
        /// Whom this reaches.
        to: Arc<Workload>,
        /// The service that was called.
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to what the mesh does not know.
    Passthrough(SocketAddr),
}

impl Route {
    /// The application that it leads to.
    #[must_use]
    pub fn app(&self) -> SocketAddr {
        match self {
            Self::Hbone { authority: addr, .. }
            | Self::Tcp { addr, .. }
            | Self::Passthrough(addr) => *addr,
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
    #[error("service {0} has no endpoint")]
    NoEndpoint(Arc<str>),
}

impl NoRoute {
    /// What operators see for this failure.
    #[must_use]
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::OwnPort(_) => CloseReason::DirectCall,
            Self::NoPort { .. } | Self::NoEndpoint(_) => CloseReason::NoHealthyUpstream,
        }
    }
}

/// Decides for a connection of `from` to `dst`. `captured` is false if it
/// was made to our listener itself;
/// `random` chooses among a service's endpoints.
///
/// # Errors
/// [`NoRoute`] if the destination is ours, or a known service that cannot be reached.
pub fn decide(
    mesh: &View,
    from: &Workload,
    dst: OriginalDst,
    captured: bool,
    random: u64,
) -> Result<Route, NoRoute> {
    let dst = dst.0;
    let ours = dst.ip().is_loopback() || from.addresses.contains(&dst.ip());
    if !captured || (ours && OWN_PORTS.contains(&dst.port())) {
        return Err(NoRoute::OwnPort(dst));
    }
    if let Some(service) = mesh.service_by_vip(dst.ip(), from.namespace()) {
        if service.target_port(dst.port()).is_none() {
            let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
            return Err(NoRoute::NoPort {
                hostname: service.hostname.clone(),
                port: dst.port(),
                ports: ports.join(", "),
            });
        }
        let ask = Ask { from, called: dst, is_waypoint: false, random };
        let endpoint = pick(mesh, service, &ask).and_then(|found| Some((found, found.ip?)));
        let (endpoint, ip) =
            endpoint.ok_or_else(|| NoRoute::NoEndpoint(service.hostname.clone()))?;
        let addr = SocketAddr::new(ip, endpoint.port);
        return Ok(to_workload(endpoint.workload, addr, Some(service)));
    }
    Ok(match mesh.workload_by_ip(dst.ip()) {
        Some(to) => to_workload(to, dst, None),
        None => Route::Passthrough(dst),
    })
}

fn to_workload(to: &Arc<Workload>, addr: SocketAddr, service: Option<&Arc<Service>>) -> Route {
    let (to, service) = (Arc::clone(to), service.map(Arc::clone));
    match to.protocol() {
        Protocol::Hbone => Route::Hbone {
            hop: Hop {
                addr: SocketAddr::new(addr.ip(), HBONE_PORT),
                expect: vec![to.id().clone()],
            },
            authority: addr,
            to,
            service,
        },
        Protocol::Tcp => Route::Tcp { addr, to, service },
    }
}
