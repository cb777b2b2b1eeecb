//! A service: virtual addresses and ports in front of workloads. Which workloads is what these say
//! themselves ([`super::Membership`]).

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{Gateway, NetworkAddress, ServicePort, Workload};
use crate::identity::SpiffeId;

/// How an endpoint of a service is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BalancingMode {
    /// Any.
    #[default]
    Standard,
    /// Only one that has all that is preferred.
    Strict,
    /// One that has most of what is preferred, from the first on.
    Failover,
    /// None: the connection goes where it was meant to go.
    Passthrough,
}

/// What an endpoint may have in common with its caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LocalityScope {
    /// The region.
    Region,
    /// The zone.
    Zone,
    /// The part of a zone.
    Subzone,
    /// The node.
    Node,
    /// The cluster.
    Cluster,
    /// The network.
    Network,
}

/// How a service's connections are spread over its endpoints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Balancing {
    /// How strongly what follows counts.
    pub mode: BalancingMode,
    /// What is preferred, most first.
    pub preferences: Vec<LocalityScope>,
    /// Whether endpoints that their platform calls unhealthy are taken too.
    pub any_health: bool,
}

/// Which addresses of its endpoints a service uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Families {
    /// Any.
    #[default]
    Automatic,
    /// Only these.
    Ipv4,
    /// Only these.
    Ipv6,
    /// Both.
    Dual,
}

impl Families {
    /// Whether an address may be used.
    #[must_use]
    pub fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
        }
    }
}

/// One service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name, such as `db`.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Fully qualified, such as `db.shop.svc.cluster.local`; may begin with `*.`.
    pub hostname: Arc<str>,
    /// Virtual addresses; empty for a headless service.
    pub vips: Vec<NetworkAddress>,
    /// Virtual networks, each with the network in which it means the service.
    pub cidr_vips: Vec<(Arc<str>, IpNet)>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Who else may answer for it, beside its endpoints' own identities.
    pub subject_alt_names: Vec<SpiffeId>,
    /// The waypoint that calls to this service go through.
    pub waypoint: Option<Arc<Gateway>>,
    /// Of these one is chosen for each connection by weight, before `waypoint`.
    pub weighted_waypoints: Vec<(Arc<Gateway>, u32)>,
    /// How an endpoint is chosen; any if it does not say.
    pub balancing: Option<Balancing>,
    /// Which of its endpoints' addresses are used.
    pub families: Families,
    /// Of several services with one name or address this one is meant.
    pub is_canonical: bool,
    /// Only callers of its own namespace see it.
    pub is_private: bool,
}

impl Service {
    /// One of which nothing else is known.
    #[must_use]
    pub fn new(namespace: Arc<str>, hostname: Arc<str>) -> Self {
        Self {
            name: hostname.split('.').next().unwrap_or_default().into(),
            namespace,
            hostname,
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: Vec::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            balancing: None,
            families: Families::default(),
            is_canonical: false,
            is_private: false,
        }
    }

    /// The port of the workloads behind service port `port`; 0 where each says it itself.
    #[must_use]
    pub fn target_port(&self, port: u16) -> Option<u16> {
        self.ports.iter().find(|p| p.port == port).map(|p| p.target_port)
    }

    /// Whether a workload is behind it.
    #[must_use]
    pub fn is_backed_by(&self, workload: &Workload) -> bool {
        workload.membership(&self.namespace, &self.hostname).is_some()
    }

    /// Whether callers of a namespace see it.
    #[must_use]
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        !self.is_private || *self.namespace == *namespace
    }

    /// How its connections are spread.
    #[must_use]
    pub fn mode(&self) -> BalancingMode {
        self.balancing.as_ref().map_or(BalancingMode::Standard, |balancing| balancing.mode)
    }
}
