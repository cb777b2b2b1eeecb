//! The mesh as adit knows it: workloads, services and policies.
//!
//! [`Store`] takes deltas from a [`source`] and gives out an immutable [`View`] and the
//! [`Changes`] since the last one. Whoever decides loads a view and then acts on it.

mod balance;
mod changes;
mod claims;
mod compiled;
mod dump;
mod intern;
mod local;
mod map;
mod service;
pub mod source;
mod store;
mod view;
mod workload;

pub use balance::pick;
pub use changes::{Change, Changes, RulesChanged};
pub use dump::{MeshDump, ServiceDump, WorkloadDump};
pub use local::{AppHop, LocalPod, NetnsRef};
pub use service::{Service, ServicePort};
pub use store::Store;
pub use view::{MtlsMode, View};
pub use workload::{Labels, Protocol, Template, Workload};
