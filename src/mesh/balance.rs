//! Which endpoint of a service takes a connection: pure, the randomness comes from outside.

use std::{net::SocketAddr, sync::Arc};

use super::{Service, View, Workload};

/// Chooses evenly among the workloads behind `service` that exist and have an address;
/// `called` is the virtual address and port. The address is of the called family if the
/// workload has one.
#[must_use]
pub fn pick<'a>(
    mesh: &'a View,
    service: &Service,
    called: SocketAddr,
    random: u64,
) -> Option<(&'a Arc<Workload>, SocketAddr)> {
    let port = service.target_port(called.port())?;
    let endpoints: Vec<_> = service
        .workloads
        .iter()
        .filter_map(|uid| mesh.workload(uid))
        .filter_map(|workload| {
            let family = |a: &&std::net::IpAddr| a.is_ipv4() == called.is_ipv4();
            let own = &workload.addresses;
            let ip = own.iter().find(family).or_else(|| own.first())?;
            Some((workload, SocketAddr::new(*ip, port)))
        })
        .collect();
    let count = u64::try_from(endpoints.len()).ok().filter(|n| *n > 0)?;
    endpoints.into_iter().nth(usize::try_from(random % count).ok()?)
}
