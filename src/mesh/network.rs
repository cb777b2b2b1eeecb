//! The addresses of one network: whose each is.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv6Net};
use prefix_trie::PrefixMap;

use super::{
    Service, Workload,
    claims::{Owned, spelled},
    map::{Keyed, Map},
    named::{Services, meant},
};

/// The addresses of one network.
#[derive(Clone, Default)]
pub(super) struct Network {
    pub(super) name: Arc<str>,
    pub(super) addresses: Map<Owned<Workload>>,
    vips: Map<Vip>,
    /// Virtual networks, IPv4 as IPv6. Few, and copied as one.
    cidrs: Arc<PrefixMap<Ipv6Net, Services>>,
}

impl Keyed for Network {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

/// The services of a virtual address.
#[derive(Clone)]
struct Vip {
    ip: Ipv6Addr,
    services: Services,
}

impl Keyed for Vip {
    type Key = Ipv6Addr;

    fn key(&self) -> &Ipv6Addr {
        &self.ip
    }
}

/// A network in its one spelling.
fn prefix(net: IpNet) -> Ipv6Net {
    let length = if net.addr().is_ipv4() { 96 + net.prefix_len() } else { net.prefix_len() };
    Ipv6Net::new_assert(spelled(net.network()), length)
}

impl Network {
    pub(super) fn new(name: &Arc<str>) -> Self {
        Self { name: Arc::clone(name), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.vips.is_empty() && self.cidrs.is_empty()
    }

    /// The service that a caller of `namespace` means by an address.
    pub(super) fn service(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<Service>> {
        let ip = spelled(ip);
        if let Some(vip) = self.vips.get(&ip) {
            return meant(vip.services.as_slice(), namespace);
        }
        if self.cidrs.is_empty() {
            return None;
        }
        // From the longest to the shortest.
        let mut around: Vec<_> = self.cidrs.cover_values(&Ipv6Net::from(ip)).collect();
        around.reverse();
        let found = || around.iter().filter_map(|all| meant(all.as_slice(), namespace));
        found().find(|service| *service.namespace == *namespace).or_else(|| found().next())
    }

    /// A service has these of its addresses that are in this network.
    pub(super) fn add(&mut self, new: &Arc<Service>) {
        for vip in new.vips.iter().filter(|vip| vip.network == self.name) {
            let ip = spelled(vip.ip);
            let services = Services::with(self.vips.get(&ip).map(|vip| &vip.services), new);
            self.vips.insert(Vip { ip, services });
        }
        for (_, net) in new.cidr_vips.iter().filter(|(network, _)| *network == self.name) {
            let (cidrs, net) = (Arc::make_mut(&mut self.cidrs), prefix(*net));
            let services = Services::with(cidrs.get(&net), new);
            cidrs.insert(net, services);
        }
    }

    /// A service has none of its addresses any more.
    pub(super) fn remove(&mut self, old: &Service) {
        for vip in old.vips.iter().filter(|vip| vip.network == self.name) {
            let ip = spelled(vip.ip);
            let Some(there) = self.vips.get(&ip) else { continue };
            match there.services.without(old) {
                Some(services) => drop(self.vips.insert(Vip { ip, services })),
                None => drop(self.vips.remove(&ip)),
            }
        }
        for (_, net) in old.cidr_vips.iter().filter(|(network, _)| *network == self.name) {
            let (cidrs, net) = (Arc::make_mut(&mut self.cidrs), prefix(*net));
            match cidrs.get(&net).map(|there| there.without(old)) {
                Some(Some(services)) => drop(cidrs.insert(net, services)),
                Some(None) => drop(cidrs.remove(&net)),
                None => {}
            }
        }
    }
}
