//! Addresses and ports, as workloads, services and gateways have them.

use std::{net::IpAddr, sync::Arc};

/// One port of a service.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ServicePort {
    /// What clients dial.
    pub port: u16,
    /// What the workloads listen on; 0 where each says it itself.
    pub target_port: u16,
}

/// An address, and the network in which it means something.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NetworkAddress {
    /// Empty for the only one.
    pub network: Arc<str>,
    /// The address.
    pub ip: IpAddr,
}

impl From<IpAddr> for NetworkAddress {
    fn from(ip: IpAddr) -> Self {
        Self { network: Arc::default(), ip }
    }
}
