//! Addresses of a mesh file: each has one owner.

use std::{collections::HashMap, net::IpAddr};

use crate::config::reader::Map;

/// Whose each address is.
pub(super) type Taken = HashMap<IpAddr, String>;

pub(super) fn addresses(map: &Map<'_>, owner: &str, taken: &mut Taken) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for item in map.list("addresses") {
        let Some(ip) = item.parse::<IpAddr>("10.77.0.1 or fd77::1") else { continue };
        let ip = ip.to_canonical();
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            item.fault(format!("{ip} is not an address that others can reach"));
            continue;
        }
        match taken.insert(ip, owner.into()) {
            Some(other) => item.fault(format!("{ip} is already an address of {other}")),
            None => all.push(ip),
        }
    }
    all
}
