//! HBONE on the wire: HTTP/2 CONNECT (RFC 9113 §8.5) inside mutual TLS, port 15008.
//!
//! [`Pool`] opens streams towards other nodes, [`server::serve`] takes them; both hand out a
//! [`stream::TunnelSource`] and a [`stream::TunnelSink`] and nothing else of HTTP/2 leaves
//! this room: that is the seam behind which the framing can be replaced. Today it is the
//! `h2` crate over our own TLS records ([`record`]).
//! Not here: whom to call ([`crate::node`]), who may call ([`crate::policy`]).

mod client;
pub mod connect;
mod error;
mod keepalive;
mod pool;
pub mod record;
mod record_stream;
pub mod server;
pub mod stream;

use std::time::Duration;

pub use error::ConnectError;
pub use pool::{Hop, Own, Pool};

/// The port on which every pod of the mesh takes HBONE.
pub const HBONE_PORT: u16 = 15008;

/// Limits and deadlines of tunnels, both ends.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// TCP connect.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
    /// HTTP/2 preface and SETTINGS.
    pub http2: Duration,
    /// The answer to CONNECT.
    pub response: Duration,
    /// Streams per pooled tunnel.
    pub max_streams: usize,
    /// A tunnel without streams is closed after this.
    pub idle: Duration,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connect: seconds(10),
            tls: seconds(10),
            http2: seconds(10),
            response: seconds(15),
            max_streams: 100,
            idle: seconds(300),
        }
    }
}

/// What one stream may have in flight before its reader catches up. Bounds the memory that a
/// stalled stream holds at the receiver.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for a whole tunnel: sixteen streams may stall before others feel it.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest frame accepted (and so what a bulk stream is cut into).
const MAX_FRAME: u32 = 1 << 20;
/// What a stream may queue for sending.
const SEND_BUFFER: usize = 400 << 10;
/// Streams that a server accepts on one tunnel.
const MAX_CONCURRENT: u32 = 200;
/// What small DATA frames may cost before a tunnel is cut (h2's flood defence). A database
/// sends many tiny packets on many streams, so this is generous and still bounded.
const DATA_FRAME_BUDGET: usize = 8 << 20;
