//! The mesh as adit knows it: workloads, services and policies.
//!
//! [`Store`] takes deltas from a [`source`] and gives out an immutable [`View`] and the
//! [`Changes`] since the last one. Whoever decides loads a view and then acts on it.

mod address;
mod avoided;
mod balance;
mod by_hostname;
mod changes;
mod claims;
mod compact;
mod compiled;
mod dump;
mod endpoints;
mod gateway;
mod intern;
mod local;
mod map;
mod named;
mod network;
mod scopes;
mod service;
pub mod source;
mod store;
mod view;
mod workload;

pub use address::{NetworkAddress, ServicePort};
pub use avoided::{Avoided, Ejected, EndpointAddress};
pub use balance::{Ask, Endpoint, pick};
pub use changes::{Change, Changes, RulesChanged};
pub use compact::{Addresses, Name};
pub use dump::{
    AppTunnelDump, BalancingDump, CidrDump, EndpointDump, GatewayDump, LocalityDump, MeshDump,
    ServiceDump, WeightedDump, WorkloadDump,
};
pub use gateway::{Gateway, GatewayDestination};
pub use local::{AppHop, LocalPod, NetnsRef, NonTcp};
pub use service::{Balancing, BalancingMode, Families, LocalityScope, Service};
pub use store::Store;
pub use view::{MtlsMode, View};
pub use workload::{
    AppNames, AppTunnel, Labels, Locality, Membership, Protocol, Template, Workload, WorkloadKind,
};
