//! The SPIFFE Workload API as a source: [`client`] calls anybody's server, and [`WorkloadApi`]
//! keeps what that says. Not here: serving it ([`crate::spiffe_api::workload_api`]).

pub mod client;
mod endpoint;
pub(crate) mod source;

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use source::WorkloadApi;
