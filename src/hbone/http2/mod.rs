//! HTTP/2 (RFC 9113) without I/O, as far as CONNECT needs it: bytes in, events out, and
//! frames to send. No priorities, no push, no bodies other than a tunnel's.
//!
//! [`Http2`] is one end of one connection. `receive` takes plaintext and yields an [`Event`]
//! at a time; DATA is told as a range of the input, so nobody copies it. What must be sent
//! gathers in `control`; DATA is headed by [`Http2::data_head`], which keeps the windows. All
//! state is plain, so that a live connection can be described in full.
//!
//! | file | RFC 9113 |
//! |---|---|
//! | `frame` | §4.1 format, §6 types, §7 error codes |
//! | `reader` | §4.1, §4.2 cutting, §6.1 padding |
//! | `terms` | roles, limits and events, of whoever uses this |
//! | `connection` | §5.1 stream states, what we send |
//! | `receive` | §6.2 to §6.9, what comes |
//! | `headers` | §4.3, §6.2, §6.10, §8.3, §8.5 |
//! | `flow` | §5.2, §6.9 |
//! | `budget` | §10.5 denial of service |
//! | `hpack` | RFC 7541 |

mod budget;
mod connection;
mod flow;
pub mod frame;
mod headers;
pub mod hpack;
mod hpack_tables;
mod reader;
mod receive;
#[cfg(test)]
mod tests;
mod types;

pub use budget::FloodLimits;
pub use connection::Http2;
pub(super) use connection::{ByStream, FEW};
pub use frame::Code;
pub use headers::Request;
pub use types::{Event, Limits, Role};

/// Why a connection must end (RFC 9113 §5.4.1).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{code:?}: {why}")]
pub struct Failure {
    /// What the peer is told.
    pub code: Code,
    /// What it did.
    pub why: &'static str,
}

impl Failure {
    pub(super) fn new(code: Code, why: &'static str) -> Self {
        Self { code, why }
    }

    fn protocol(why: &'static str) -> Self {
        Self::new(Code::PROTOCOL_ERROR, why)
    }
}
