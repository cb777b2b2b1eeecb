//! The SPIFFE Workload API: [`client`] calls anybody's; [`WorkloadApi`] is the source that keeps
//! what it says.

pub mod client;
mod source;

pub use source::WorkloadApi;
