//! A service.

use std::sync::Arc;

use super::parts::{Checked, address, gateway, known, list, ports, range, service_key, text};
use crate::{
    mesh::{Balancing, BalancingMode, Families, LocalityScope, Service},
    rpc::address::{
        IpFamilies, LoadBalancing, Service as Sent, WeightedWaypoint,
        load_balancing::{HealthPolicy, Mode, Scope},
        service::Visibility,
    },
};

pub(super) fn service(name: &str, sent: Sent) -> Checked<Service> {
    let (namespace, hostname) =
        service_key(name).ok_or("its resource name is not NAMESPACE/HOSTNAME")?;
    if (namespace, hostname) != (&*sent.namespace, &*sent.hostname) {
        return Err("its namespace and hostname differ from its resource name".into());
    }
    let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
    for sent in list("addresses", sent.addresses)? {
        let range = range("addresses", &sent)?;
        let address = address("addresses", sent)?;
        match range {
            Some(net) => cidr_vips.push((address.network, net)),
            None => vips.push(address),
        }
    }
    // What is not an identity is nobody's: nothing matches it.
    let names = list("subject_alt_names", sent.subject_alt_names)?;
    let subject_alt_names = names.iter().filter_map(|name| name.parse().ok()).collect();
    let weighted = list("weighted_waypoints", sent.weighted_waypoints)?;
    Ok(Service {
        name: text("name", sent.name)?,
        namespace: namespace.into(),
        hostname: hostname.into(),
        vips,
        cidr_vips,
        ports: ports("ports", sent.ports)?,
        subject_alt_names,
        waypoint: sent.waypoint.map(|sent| gateway("waypoint", sent)).transpose()?,
        weighted_waypoints: weighted.into_iter().map(weighted_waypoint).collect::<Checked<_>>()?,
        balancing: sent.load_balancing.map(balancing).transpose()?,
        families: match known("ip_families", sent.ip_families)? {
            IpFamilies::Automatic => Families::Automatic,
            IpFamilies::Ipv4Only => Families::Ipv4,
            IpFamilies::Ipv6Only => Families::Ipv6,
            IpFamilies::Dual => Families::Dual,
        },
        is_canonical: sent.canonical,
        is_private: Visibility::try_from(sent.visibility) == Ok(Visibility::Namespace),
    })
}

fn weighted_waypoint(sent: WeightedWaypoint) -> Checked<(Arc<crate::mesh::Gateway>, u32)> {
    let destination =
        sent.destination.ok_or("an entry of weighted_waypoints has no destination")?;
    Ok((gateway("weighted_waypoints", destination)?, sent.weight))
}

fn balancing(sent: LoadBalancing) -> Checked<Balancing> {
    let scope = |value: i32| match known("routing_preference", value)? {
        Scope::UnspecifiedScope => Err("routing_preference has an unspecified scope".to_owned()),
        Scope::Region => Ok(LocalityScope::Region),
        Scope::Zone => Ok(LocalityScope::Zone),
        Scope::Subzone => Ok(LocalityScope::Subzone),
        Scope::Node => Ok(LocalityScope::Node),
        Scope::Cluster => Ok(LocalityScope::Cluster),
        Scope::Network => Ok(LocalityScope::Network),
    };
    let preferences = list("routing_preference", sent.routing_preference)?;
    let health: HealthPolicy = known("health_policy", sent.health_policy)?;
    Ok(Balancing {
        mode: match known("mode", sent.mode)? {
            Mode::UnspecifiedMode => BalancingMode::Standard,
            Mode::Strict => BalancingMode::Strict,
            Mode::Failover => BalancingMode::Failover,
            Mode::Passthrough => BalancingMode::Passthrough,
        },
        preferences: preferences.into_iter().map(scope).collect::<Checked<_>>()?,
        any_health: health == HealthPolicy::AllowAll,
    })
}
