//! The SPIFFE Workload API: workloads ask for their own SVIDs over a Unix socket.
//!
//! [`server`] serves it to the processes of this node; [`client`] calls anybody's, and
//! [`WorkloadApi`] is the source that keeps what that says; [`check`] tells whether a server keeps
//! the specification.

pub mod check;
pub mod client;
mod endpoint;
pub mod server;
pub(in crate::ca) mod source;

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use source::WorkloadApi;
