//! A service: virtual addresses and ports in front of workloads.

use std::{net::IpAddr, sync::Arc};

/// One port of a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// What clients dial.
    pub port: u16,
    /// What the workloads listen on.
    pub target_port: u16,
}

/// One service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Fully qualified, such as `db.shop.svc.cluster.local`.
    pub hostname: Arc<str>,
    /// The namespace, taken from the file or the hostname's second label.
    pub namespace: Arc<str>,
    /// Virtual addresses; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The uids of the workloads behind it.
    pub workloads: Vec<Arc<str>>,
}

impl Service {
    /// The port of the workloads behind service port `port`.
    #[must_use]
    pub fn target_port(&self, port: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.port == port).map(|p| p.target_port)
    }
}
