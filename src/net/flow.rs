//! The facts of a connection that routes and policies are decided on.

use std::net::SocketAddr;

use crate::identity::SpiffeId;

/// Who connected to us (the TCP peer).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PeerAddr(pub SocketAddr);

/// Where they meant to go (`SO_ORIGINAL_DST`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OriginalDst(pub SocketAddr);

/// Seen from the pod or service whose connection it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Towards its application.
    Inbound,
    /// From its application.
    Outbound,
}

impl Direction {
    /// The word in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// Istio's `reporter` label.
    #[must_use]
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Inbound => "destination",
            Self::Outbound => "source",
        }
    }
}

/// What a policy is evaluated on.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Inbound or outbound.
    pub direction: Direction,
    /// The TCP peer: for HBONE the other end of the tunnel.
    pub peer: PeerAddr,
    /// The peer's identity as proven by its X.509-SVID; `None` for plaintext.
    pub peer_id: Option<SpiffeId>,
    /// Whether the peer is of another trust domain than the destination.
    pub foreign: bool,
    /// The resolved destination: pod IP and application port, never a VIP and never 15008.
    pub dst: SocketAddr,
}
