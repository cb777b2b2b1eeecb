//! Endpoints that a connection is rather not given: those that it has tried already, and those that
//! failed others before it. Not here: who notes that.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// Where an endpoint is reached.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EndpointAddress {
    /// An address of our own network, with the application's port.
    Ip(SocketAddr),
    /// A host name in place of an address, and the port.
    Name(Arc<str>, u16),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Endpoints that are left out for a while, each with its rank: 0 is the worst.
pub type Ejected = HashMap<EndpointAddress, usize>;

/// What one connection is rather not given.
#[derive(Clone, Debug, Default)]
pub struct Avoided {
    /// It has tried them, and gets none of them again.
    pub tried: Vec<EndpointAddress>,
    /// They are left out while at least half of a service's endpoints remain, and one with HBONE
    /// among them if there was one.
    pub ejected: Arc<Ejected>,
    /// It was to go by HBONE before: nobody gets it in clear text.
    pub only_hbone: bool,
}
