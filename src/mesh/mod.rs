//! The mesh as adit knows it: workloads, services and policies in one immutable snapshot.

mod service;
mod workload;

pub use service::{Service, ServicePort};
pub use workload::{NetnsRef, Protocol, Workload};
