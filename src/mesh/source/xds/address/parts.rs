//! What workloads and services have in common.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    mesh::{Gateway, GatewayDestination, NetworkAddress, ServicePort},
    rpc::address::{
        GatewayAddress, NetworkAddress as SentAddress, Port, gateway_address::Destination,
    },
};

/// What is wrong with a resource, in the words of its sender.
pub(super) type Checked<T> = Result<T, String>;

/// The longest text, in bytes: names of Kubernetes have 253.
const MAX_TEXT: usize = 1024;
/// How many of anything one resource may have.
pub(super) const MAX_LIST: usize = 10_000;

/// A text, as long as texts are.
pub(super) fn text(field: &str, text: String) -> Checked<Arc<str>> {
    match text.len() {
        0..=MAX_TEXT => Ok(text.into()),
        length => Err(format!("{field} has {length} bytes, the limit is {MAX_TEXT}")),
    }
}

/// A text, as long as texts are; `None` if it is empty.
pub(super) fn if_any(field: &str, given: String) -> Checked<Option<Arc<str>>> {
    Ok(Some(text(field, given)?).filter(|text| !text.is_empty()))
}

/// A list that is not too long.
pub(super) fn list<T>(field: &str, all: Vec<T>) -> Checked<Vec<T>> {
    match all.len() {
        0..=MAX_LIST => Ok(all),
        length => Err(format!("{field} has {length} entries, the limit is {MAX_LIST}")),
    }
}

/// 4 or 16 bytes. An IPv4 address in IPv6 is the IPv4 address.
pub(super) fn ip(field: &str, bytes: &[u8]) -> Checked<IpAddr> {
    let ip = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    };
    let ip = ip.ok_or_else(|| format!("{field} has an address of {} bytes", bytes.len()))?;
    Ok(ip.to_canonical())
}

pub(super) fn port(field: &str, port: u32) -> Checked<u16> {
    u16::try_from(port).map_err(|_| format!("{field} has the port {port}, which is not 1 to 65535"))
}

pub(super) fn ports(field: &str, all: Vec<Port>) -> Checked<Vec<ServicePort>> {
    let one = |sent: Port| {
        let (of_service, target) =
            (port(field, sent.service_port)?, port(field, sent.target_port)?);
        Ok(ServicePort { port: of_service, target_port: target })
    };
    list(field, all)?.into_iter().map(one).collect()
}

/// One address, whatever length it says that it has.
pub(super) fn address(field: &str, sent: SentAddress) -> Checked<NetworkAddress> {
    Ok(NetworkAddress { network: text(field, sent.network)?, ip: ip(field, &sent.address)? })
}

/// The addresses that `sent` stands for, if it is not just one.
pub(super) fn range(field: &str, sent: &SentAddress) -> Checked<Option<IpNet>> {
    let Some(length) = sent.length else { return Ok(None) };
    let ip = ip(field, &sent.address)?;
    // A range of IPv4 addresses in IPv6 has its first 96 bits in common.
    let mapped = ip.is_ipv4() && sent.address.len() == 16;
    let length = if mapped { length.checked_sub(96) } else { Some(length) };
    let net = length.and_then(|l| u8::try_from(l).ok()).and_then(|l| IpNet::new(ip, l).ok());
    let net = net.ok_or_else(|| format!("{field} has a prefix that does not fit its address"))?;
    Ok((net.prefix_len() != net.max_prefix_len()).then(|| net.trunc()))
}

/// A waypoint or gateway; one that cannot be found is refused with all that it stands for.
pub(super) fn gateway(field: &str, sent: GatewayAddress) -> Checked<Arc<Gateway>> {
    let destination = match sent.destination {
        Some(Destination::Address(sent)) => GatewayDestination::Address(address(field, sent)?),
        Some(Destination::Hostname(name)) => GatewayDestination::Hostname {
            namespace: text(field, name.namespace)?,
            hostname: text(field, name.hostname)?,
        },
        None => return Err(format!("{field} has no destination")),
    };
    Ok(Arc::new(Gateway { destination, hbone_port: port(field, sent.hbone_mtls_port)? }))
}

/// The value of an enumeration that means something; an unknown one may change how a resource is
/// reached, so it is refused.
pub(super) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Checked<T> {
    T::try_from(value).map_err(|_| format!("{field} has the value {value}, which is not known"))
}

/// The service that a name may mean, as `namespace/hostname`.
#[must_use]
pub fn service_key(name: &str) -> Option<(&str, &str)> {
    let (namespace, hostname) = name.split_once('/')?;
    let is_key = !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/');
    is_key.then_some((namespace, hostname))
}
