//! What others learn from us and we from others, by SPIFFE's own APIs.
//!
//! [`workload_api`] serves the SPIFFE Workload API to the processes of this node, [`check`] tells
//! whether anybody's server keeps that specification, and [`federation`] fetches other trust
//! domains' bundles and serves our own.

pub mod check;
pub mod federation;
pub mod workload_api;
