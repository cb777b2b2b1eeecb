//! What connections go through: a waypoint, or the gateway of another network.

use std::{fmt, sync::Arc};

use super::NetworkAddress;

/// How it is found.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum GatewayDestination {
    /// By the address of a service or workload.
    Address(NetworkAddress),
    /// By the name of a service or workload.
    Hostname {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its host name.
        hostname: Arc<str>,
    },
}

/// A waypoint or gateway.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Gateway {
    /// How it is found.
    pub destination: GatewayDestination,
    /// The port at which it takes HBONE, as its service or workload has it.
    pub hbone_port: u16,
}

/// As Istio's dumps name it: `network/address` or `namespace/hostname`.
impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(NetworkAddress { network, ip }) => write!(f, "{network}/{ip}"),
            Self::Hostname { namespace, hostname } => write!(f, "{namespace}/{hostname}"),
        }
    }
}
