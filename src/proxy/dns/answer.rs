//! Which addresses a name has for one client, from one view of the mesh (istio-ambient facts §11).
//! Pure: no clock and no socket. Not here: what a name may mean ([`super::name`]), and how the
//! answer is written ([`super::message`]).

use std::{net::IpAddr, sync::Arc};

use rand::seq::SliceRandom as _;

use super::name::{Wildcards, candidates};
use crate::mesh::{Service, View, Workload};

/// More endpoints than that are nobody's to choose among; any of them.
const MOST_ADDRESSES: usize = 1000;

/// How names are understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Naming {
    /// The domain of Kubernetes' own services, such as `cluster.local`.
    pub cluster_domain: String,
    /// Of services with the same name in several namespaces that of this one, where neither the
    /// client's own namespace nor a canonical one decides.
    pub preferred_namespace: Option<String>,
    /// Whether IPv6 addresses are told.
    pub ipv6: bool,
}

impl Default for Naming {
    fn default() -> Self {
        Self { cluster_domain: "cluster.local".into(), preferred_namespace: None, ipv6: true }
    }
}

/// What the mesh says of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Known {
    /// The service that is meant.
    pub(super) service: Arc<Service>,
    /// Of the family that was asked for, in any order; perhaps none.
    pub(super) addresses: Vec<IpAddr>,
    /// The name is one for as many of its own first labels: the rest was a search domain.
    pub(super) alias: Option<usize>,
}

/// What the mesh says of a name; `None` if it does not know it. In lower case, without a dot at the
/// end. How much was looked at is added to `looked`.
pub(super) fn answer(
    view: &View,
    naming: &Naming,
    client: &Workload,
    (name, ipv6): (&str, bool),
    looked: &mut usize,
) -> Option<Known> {
    let namespace = client.namespace();
    for candidate in candidates(name, namespace, &naming.cluster_domain) {
        let (mut hosts, mut is_wildcard) = (Wildcards::of(&candidate.host), false);
        while let Some(host) = hosts.next() {
            let services = view.services_named(host);
            *looked += 1 + services.len();
            if let Some(service) = meant(services, naming, namespace) {
                return Some(Known {
                    service: Arc::clone(service),
                    addresses: addresses(view, naming, client, (service, ipv6), looked),
                    alias: candidate.stripped_to.filter(|_| !is_wildcard),
                });
            }
            is_wildcard = true;
        }
    }
    None
}

/// The client's own, the canonical one, that of the preferred namespace, the first.
fn meant<'a>(
    services: &'a [Arc<Service>],
    naming: &Naming,
    namespace: &str,
) -> Option<&'a Arc<Service>> {
    let preferred = |s: &Service| Some(&*s.namespace) == naming.preferred_namespace.as_deref();
    let told = services.iter().filter(|s| is_told(s, naming) && s.is_visible_to(namespace));
    told.min_by_key(|s| (*s.namespace != *namespace, !s.is_canonical, !preferred(s)))
}

/// Whether names are answered with it: one without addresses only if Kubernetes has it.
fn is_told(service: &Service, naming: &Naming) -> bool {
    let of_kubernetes = || {
        let rest = service.hostname.strip_suffix(&*naming.cluster_domain);
        rest.is_some_and(|rest| rest.ends_with(".svc."))
    };
    !service.vips.is_empty() || of_kubernetes()
}

fn addresses(
    view: &View,
    naming: &Naming,
    client: &Workload,
    (service, ipv6): (&Service, bool),
    looked: &mut usize,
) -> Vec<IpAddr> {
    if ipv6 && !naming.ipv6 {
        return Vec::new();
    }
    let asked_for = |ip: &IpAddr| ip.is_ipv6() == ipv6 && service.families.has(*ip);
    let mut found: Vec<IpAddr> = if service.vips.is_empty() {
        let any_health = service.balancing.as_ref().is_some_and(|b| b.any_health);
        let endpoints = view.endpoints(service).map(|(workload, _)| workload);
        let endpoints = endpoints.inspect(|_| *looked += 1);
        let taken = endpoints.filter(|workload| workload.healthy || any_health);
        taken.filter_map(|w| w.addresses.iter().copied().find(asked_for)).collect()
    } else {
        let network = &client.template.network;
        let here = service.vips.iter().filter(|vip| vip.network == *network);
        here.map(|vip| vip.ip).filter(asked_for).collect()
    };
    let (chosen, _) = found.partial_shuffle(&mut rand::rng(), MOST_ADDRESSES);
    chosen.to_vec()
}

#[cfg(test)]
mod tests;
