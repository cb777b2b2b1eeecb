//! The facts of a connection that routes and policies are decided on.

use std::net::SocketAddr;

use crate::identity::{SpiffeId, TrustDomain, TrustDomainAliases};

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
    /// What else policies may call the peer: its trust domain has other names (Istio's
    /// `trustDomainAliases`).
    pub other_principals: Vec<Box<str>>,
    /// The resolved destination: pod IP and application port, never a VIP and never 15008.
    pub dst: SocketAddr,
}

impl Flow {
    /// This flow, where the destination is of `own`, which has these other names.
    #[must_use]
    pub fn with_aliases(self, aliases: &TrustDomainAliases, own: &TrustDomain) -> Self {
        let Some(id) = self.peer_id.as_ref().filter(|_| !aliases.is_empty()) else { return self };
        let foreign = !aliases.are_one(id.trust_domain(), own);
        let other_principals = aliases.other_principals(id, own).map(Into::into).collect();
        Self { foreign, other_principals, ..self }
    }

    /// All that the peer is called, as policies call it.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        let proven = self.peer_id.iter().map(SpiffeId::principal);
        proven.chain(self.other_principals.iter().map(|name| &**name))
    }
}
