//! Streams that go out, over tunnels to those who must answer.

mod ejection;
mod ejections;
mod failed;
pub mod gateway;
pub mod hbone;
mod outbound_traffic_policy;

pub use ejection::{EjectedEndpoint, EndpointHealth};
pub use ejections::Ejections;
pub use failed::{Failed, Verdict};
pub use outbound_traffic_policy::{OutboundTrafficPolicy, UnknownPolicy};
