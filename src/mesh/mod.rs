//! The mesh as adit knows it: workloads, services and policies in one immutable snapshot.

mod balance;
mod service;
mod snapshot;
mod workload;

pub use balance::pick;
pub use service::{Service, ServicePort};
pub use snapshot::{MtlsMode, Snapshot, SnapshotParts};
pub use workload::{AppHop, NetnsRef, Protocol, Workload, names};
