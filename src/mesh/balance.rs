//! Which endpoint of a service takes a connection: pure, the randomness comes from outside.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Avoided, BalancingMode, EndpointAddress, LocalityScope, Protocol, Service, ServicePort, View,
    Workload,
};

/// A connection that is to be given an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who calls.
    pub from: &'a Workload,
    /// The address and service port that were called. An endpoint's address is of the same family
    /// if it has one that the service allows.
    pub called: SocketAddr,
    /// Whether the service is asked as a waypoint: its endpoints take HBONE for others.
    pub is_waypoint: bool,
    /// Whether HBONE is spoken to whoever is chosen, as to waypoints and gateways.
    pub by_hbone: bool,
    /// Chooses among those that are as good.
    pub random: u64,
    /// The endpoints that it should avoid.
    pub avoided: &'a Avoided,
}

/// Who takes a connection.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// Its address; `None` if it is reached by its host name, or through another network's gateway
    /// only.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

impl Endpoint<'_> {
    /// Where it is reached; `None` if only through another network's gateway.
    #[must_use]
    pub fn address(&self, mesh: &View) -> Option<EndpointAddress> {
        if self.workload.network() != mesh.network() {
            return None;
        }
        match (self.ip, &self.workload.template.hostname) {
            (Some(ip), _) => Some(EndpointAddress::Ip(SocketAddr::new(ip, self.port))),
            (None, Some(name)) => Some(EndpointAddress::Name(Arc::clone(name), self.port)),
            (None, None) => None,
        }
    }
}

/// Chooses among the workloads behind `service`: of those that can take the connection the ones
/// that have most of what the service prefers, and among these at random by their capacity. Those
/// that are ejected are left out as if they could not take it, but no more than half of all, and
/// none if nobody would be left, or nobody with HBONE where somebody with it would be chosen else.
#[must_use]
pub fn pick<'a>(mesh: &'a View, service: &'a Service, ask: &Ask<'_>) -> Option<Endpoint<'a>> {
    let by_hbone = |all: &[Endpoint<'_>]| all.iter().any(|one| is_by_hbone(mesh, one, ask));
    let worst = left_out(mesh, service, ask);
    let mut chosen = candidates(mesh, service, ask, worst);
    if worst.is_some() && !by_hbone(&chosen) {
        let all = candidates(mesh, service, ask, None);
        if chosen.is_empty() || by_hbone(&all) {
            chosen = all;
        }
    }
    one_of(chosen, ask.random)
}

/// The last rank that is left out, if any is.
fn left_out(mesh: &View, service: &Service, ask: &Ask<'_>) -> Option<usize> {
    let ejected = &ask.avoided.ejected;
    if ejected.is_empty() {
        return None;
    }
    let (mut all, mut ranks) = (0, Vec::new());
    for one in mesh.endpoints(service) {
        let Some(endpoint) = usable(mesh, service, one, ask) else { continue };
        all += 1;
        ranks.extend(endpoint.address(mesh).and_then(|at| ejected.get(&at).copied()));
    }
    ranks.sort_unstable();
    ranks.truncate(all / 2);
    ranks.last().copied()
}

/// Those that are as good as any.
fn candidates<'a>(
    mesh: &'a View,
    service: &'a Service,
    ask: &Ask<'_>,
    worst: Option<usize>,
) -> Vec<Endpoint<'a>> {
    let preferences = service.balancing.as_ref().map_or(&[][..], |b| &b.preferences);
    let strict = service.mode() == BalancingMode::Strict;
    let mut best = 0;
    let mut candidates: Vec<Endpoint<'a>> = Vec::new();
    for (workload, ports) in mesh.endpoints(service) {
        let Some(endpoint) = usable(mesh, service, (workload, ports), ask) else { continue };
        if is_avoided(mesh, &endpoint, (ask.avoided, worst)) {
            continue;
        }
        let rank = rank(preferences, ask.from, workload);
        if strict && rank < preferences.len() {
            continue;
        }
        if rank > best {
            candidates.clear();
            best = rank;
        }
        if rank == best {
            candidates.push(endpoint);
        }
    }
    candidates
}

/// One of them, by their capacity.
fn one_of(candidates: Vec<Endpoint<'_>>, random: u64) -> Option<Endpoint<'_>> {
    let weight = |endpoint: &Endpoint<'_>| u64::from(endpoint.workload.template.capacity);
    let sum: u64 = candidates.iter().map(weight).sum();
    let mut at = random.checked_rem(sum)?;
    candidates.into_iter().find(|endpoint| match at.checked_sub(weight(endpoint)) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    })
}

fn is_avoided(
    mesh: &View,
    endpoint: &Endpoint<'_>,
    (avoided, worst): (&Avoided, Option<usize>),
) -> bool {
    if avoided.tried.is_empty() && worst.is_none() {
        return false;
    }
    let Some(at) = endpoint.address(mesh) else { return false };
    let rank = avoided.ejected.get(&at).copied();
    avoided.tried.contains(&at) || rank.is_some_and(|rank| Some(rank) <= worst)
}

fn usable<'a>(
    mesh: &View,
    service: &Service,
    (workload, ports): (&'a Arc<Workload>, &[ServicePort]),
    ask: &Ask<'_>,
) -> Option<Endpoint<'a>> {
    let any_health = service.balancing.as_ref().is_some_and(|balancing| balancing.any_health);
    if (!workload.healthy && !any_health) || workload.template.capacity == 0 {
        return None;
    }
    let ip = address(workload, service, ask.called.ip());
    let elsewhere = workload.network() != mesh.network();
    let by_gateway = elsewhere && workload.template.network_gateway.is_some();
    if ip.is_none() && workload.template.hostname.is_none() && !by_gateway {
        return None;
    }
    let endpoint = Endpoint { workload, ip, port: port(service, workload, ports, ask)? };
    (!ask.avoided.only_hbone || is_by_hbone(mesh, &endpoint, ask)).then_some(endpoint)
}

/// Whether a connection goes there by HBONE, if only to a gateway.
fn is_by_hbone(mesh: &View, Endpoint { workload, ip, .. }: &Endpoint<'_>, ask: &Ask<'_>) -> bool {
    let elsewhere = workload.network() != mesh.network();
    ask.by_hbone || elsewhere || (ip.is_some() && workload.protocol() == Protocol::Hbone)
}

/// Which address of an endpoint is dialled: the one that was called if it is its own, else one of
/// the called family if the service allows any.
fn address(workload: &Workload, service: &Service, called: IpAddr) -> Option<IpAddr> {
    let all = &workload.addresses;
    if all.contains(&called) {
        return Some(called);
    }
    let allowed = || all.iter().copied().filter(|ip| service.families.has(*ip));
    allowed().find(|ip| ip.is_ipv4() == called.is_ipv4()).or_else(|| allowed().next())
}

/// Which port of an endpoint is dialled.
fn port(service: &Service, workload: &Workload, own: &[ServicePort], ask: &Ask<'_>) -> Option<u16> {
    let called = ask.called.port();
    let fixed = workload.template.app_tunnel.is_some_and(|tunnel| tunnel.port.is_some());
    let any_port = fixed || (ask.is_waypoint && workload.template.app_tunnel.is_some());
    let of_service = service.target_port(called);
    if of_service.is_none() && !(ask.is_waypoint && any_port) {
        return None;
    }
    let own = own.iter().find(|p| p.port == called).map(|p| p.target_port);
    let given = |port: Option<u16>| port.filter(|port| *port != 0);
    given(own).or_else(|| given(of_service)).or_else(|| any_port.then_some(called))
}

/// How many of the preferences an endpoint has, from the first on. The network is preferred and not
/// required: an endpoint of another one is ranked by the rest.
fn rank(preferences: &[LocalityScope], from: &Workload, to: &Workload) -> usize {
    let (here, there) = (&from.template, &to.template);
    let has = |scope: &LocalityScope| match scope {
        LocalityScope::Region => here.locality.region == there.locality.region,
        LocalityScope::Zone => here.locality.zone == there.locality.zone,
        LocalityScope::Subzone => here.locality.subzone == there.locality.subzone,
        LocalityScope::Node => from.node == to.node,
        LocalityScope::Cluster => here.cluster == there.cluster,
        LocalityScope::Network => here.network == there.network,
    };
    match preferences {
        [LocalityScope::Network, rest @ ..] => {
            let same = usize::from(here.network == there.network);
            // More than all of the rest can bring.
            same * (rest.len() + 1) + rest.iter().take_while(|scope| has(scope)).count()
        }
        all => all.iter().take_while(|scope| has(scope)).count(),
    }
}

#[cfg(test)]
mod tests; // src/mesh/balance/tests.rs
