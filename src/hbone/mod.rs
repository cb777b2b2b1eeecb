//! HBONE on the wire: HTTP/2 CONNECT (RFC 9113 §8.5) inside mutual TLS, port 15008.
//!
//! [`Pool`] opens streams towards other nodes, [`server::serve`] takes them; both hand out a
//! [`stream::TunnelStream`], the far side of a relay. Below that lie, from the wire up:
//! [`crate::tls::record`] (TLS 1.3 records) and `http2` (frames), two machines without I/O; `core`,
//! which joins them to the streams; `driver`, which moves bytes between core and socket.
//!
//! Why both layers are ours (two cores, two pods on a veth pair, medians of five interleaved
//! rounds, raw data in `benches/results/2026-11-24-http2`): the `h2` crate over our records made
//! 6.1 Gb/s on one stream and 6.5 on four at 1.52 CPU s/GB; these frames make 8.5 and 9.5 at
//! 1.19: 39 and 46 % more, where 10 % was asked for. Beside speed: a stalled stream holds at
//! most 256 KiB, no budget kills a database's small packets, and all state is plain structs.
//! Tried and left: looking again 20 times before waiting (p50 and p99 unchanged, 35 % more
//! CPU), fixed windows of 256 KiB to 1 MiB (the sender stops at every other read), a tunnel's
//! window that follows pace and round trip, at least 1 MiB (p99 of small messages beside bulk 32 ->
//! 20 ms, a single bulk stream loses 10 %; `limits.tunnelBytes` leaves that to the operator).
//!
//! Not here: whom to call ([`crate::roles::node`]), who may call ([`crate::policy`]).

mod callers;
mod client;
pub mod connect;
mod core;
mod driver;
mod error;
pub mod http2;
pub mod order;
mod patience;
mod pool;
mod readers;
mod registry;
pub mod server;
pub mod stream;
mod write_scheduler;

use std::time::Duration;

use http2::Limits;

pub use callers::{Caller, CallerLimits, CallerRefused, Callers};
pub use error::ConnectError;
pub use pool::{Hop, Pool, Through, Underlay};
pub use registry::{
    AuthenticatedTunnel, PeerExpiry, Termination, Trust, TunnelRegistry, close_terminated,
};

use crate::sys::sockets::Keepalive;

/// The port on which every pod of the mesh takes HBONE.
pub const HBONE_PORT: u16 = 15008;

/// Limits and deadlines of tunnels, both ends.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// Tunnels that may be open towards one pod, handshakes included: its callers cannot use
    /// up the descriptors of the other pods.
    pub max_tunnels: usize,
    /// What one caller may have.
    pub caller: CallerLimits,
    /// What a peer may do in a tunnel.
    pub limits: Limits,
    /// A tunnel without streams is closed after this.
    pub idle: Duration,
    /// What happens to a tunnel whose peer's SVID has expired.
    pub peer_expiry: PeerExpiry,
    /// Probes of its sockets, and of others that leave pods.
    pub keepalive: Keepalive,
    /// Whether sockets carry the mark that capture rules leave alone; that takes CAP_NET_ADMIN.
    pub marked: bool,
}

impl TunnelConfig {
    /// That of tunnels to waypoints. Envoy ends an answer with `Connection: close` by a reset, and
    /// throws away what the stream's window has no room for then: it has much room from the start.
    #[must_use]
    pub fn to_waypoints(&self) -> Self {
        let mut config = self.clone();
        let limits = &mut config.limits;
        limits.stream_window = limits.stream_held;
        limits.stream_held = limits.stream_held.max(1 << 20);
        limits.eager = true;
        config
    }
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
            max_tunnels: 4096,
            caller: CallerLimits::default(),
            limits: Limits::default(),
            idle: seconds(300),
            peer_expiry: PeerExpiry::default(),
            keepalive: Keepalive::default(),
            marked: true,
        }
    }
}
