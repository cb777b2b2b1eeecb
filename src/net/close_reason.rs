//! Why a connection ended: a closed set that log, metrics and tests share.

use std::{fmt, io, net::SocketAddr};

/// Why a connection ended, and what went wrong if anything did.
pub type Outcome = (CloseReason, Option<String>);

/// How a connection ends when TCP to `addr` was not established.
#[must_use]
pub fn connect_failed(addr: SocketAddr, error: &io::Error) -> Outcome {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::ConnectFailure,
    };
    (reason, Some(format!("TCP connect to {addr}: {error}")))
}

/// Whether a TCP connect failed because of the peer or its network, so that another endpoint may
/// still be reachable. False for local causes, such as no route at all.
#[must_use]
pub fn is_unreached(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::TimedOut
            | Kind::HostUnreachable
    )
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal / $flag:literal;)+) => {
        /// Why a connection ended. Every connection gets exactly one.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum CloseReason { $($(#[$doc])* $variant,)+ }

        impl CloseReason {
            /// The word in the access log.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Istio's `response_flags` label for this reason.
            #[must_use]
            pub fn response_flags(self) -> &'static str {
                match self { $(Self::$variant => $flag,)+ }
            }
        }
    };
}

close_reasons! {
    /// Both directions ended with a FIN.
    Completed = "completed" / "-";
    /// The caller ended before it said anything, as probes do.
    Silent = "silent" / "-";
    /// The local application reset its connection.
    AppReset = "app_reset" / "-";
    /// The other side of the tunnel, or the plain upstream, reset.
    PeerReset = "peer_reset" / "-";
    /// The connection was dropped before any other reason was known (a cancelled task).
    Dropped = "dropped" / "-";
    /// Cut at the end of a drain.
    Drained = "drained" / "-";
    /// No bytes for longer than the idle timeout.
    IdleTimeout = "idle_timeout" / "-";
    /// One direction had ended and the other went on for too long.
    HalfCloseTimeout = "half_close_timeout" / "-";
    /// It lasted as long as a connection may.
    LifetimeReached = "lifetime_reached" / "-";
    /// An `ALLOW` policy exists and none matched, or a `DENY` policy matched.
    PolicyDenied = "policy_denied" / "DENY";
    /// Was allowed, then a policy edit forbade it.
    PolicyChanged = "policy_changed" / "DENY";
    /// The peer refused our CONNECT with 401, or closed the stream later, because its policy
    /// changed.
    PeerDenied = "peer_denied" / "DENY";
    /// The peer answered our CONNECT with another status than 200 or 401.
    PeerRefused = "peer_refused" / "CONNECT";
    /// Plaintext while mTLS is strict.
    PlaintextRefused = "plaintext_refused" / "DENY";
    /// A call straight to one of adit's own ports, not a captured one.
    DirectCall = "direct_call" / "DENY";
    /// A call to a destination outside the mesh, which `REGISTRY_ONLY` forbids.
    EgressDenied = "egress_denied" / "DENY";
    /// A known service that has no endpoint, or not for this port.
    NoHealthyUpstream = "no_healthy_upstream" / "CONNECT";
    /// TCP connect failed.
    ConnectFailure = "connect_failure" / "CONNECT";
    /// TCP connect took too long.
    ConnectTimeout = "connect_timeout" / "CONNECT";
    /// TCP connect to the port of HBONE took too long, as where a NetworkPolicy drops it.
    HboneTimeout = "hbone_timeout" / "NETWORK_POLICY";
    /// TLS failed for a reason that is not the peer's certificate, or the peer refused ours.
    TlsFailure = "tls_failure" / "TLS_FAILURE";
    /// The TLS handshake took too long.
    TlsTimeout = "tls_timeout" / "TLS_FAILURE";
    /// The peer presented no certificate.
    NoPeerCertificate = "no_peer_certificate" / "TLS_FAILURE";
    /// The peer's certificate breaks a rule: of X.509-SVIDs in a mesh (SAN, key usage, encoding),
    /// else of X.509.
    InvalidSvid = "invalid_svid" / "IDENTITY_ERROR";
    /// The peer's leaf has more than one URI SAN.
    MultipleUriSans = "multiple_uri_sans" / "IDENTITY_ERROR";
    /// The peer's leaf is a CA.
    CaAsLeaf = "ca_as_leaf" / "IDENTITY_ERROR";
    /// The peer's certificate has expired or is not valid yet.
    SvidExpired = "svid_expired" / "IDENTITY_ERROR";
    /// A CRL names the peer's certificate or an intermediate.
    SvidRevoked = "svid_revoked" / "CERT_REVOKED";
    /// An operator banned the identity, the peer's or our own.
    IdentityBanned = "identity_banned" / "IDENTITY_ERROR";
    /// The bundle of the peer's trust domain was taken away while its tunnel was open.
    TrustDomainRemoved = "trust_domain_removed" / "IDENTITY_ERROR";
    /// The peer's trust domain has no bundle here.
    UnknownTrustDomain = "unknown_trust_domain" / "IDENTITY_ERROR";
    /// The peer's chain does not lead to a trusted root: in a mesh, one of its own trust domain.
    UntrustedSvid = "untrusted_svid" / "IDENTITY_ERROR";
    /// A valid certificate, of somebody other than the one we called.
    IdentityMismatch = "identity_mismatch" / "IDENTITY_ERROR";
    /// We have no SVID for the pod yet.
    NoIdentity = "no_identity" / "IDENTITY_ERROR";
    /// Too many tunnels, handshakes or streams: those of one caller, or all of a pod or service.
    Overloaded = "overloaded" / "CONNECT";
    /// HTTP/2 failed or stalled (preface, settings, response).
    TunnelFailure = "tunnel_failure" / "H2_HANDSHAKE_FAILURE";
    /// A request that is not a well-formed CONNECT.
    BadConnect = "bad_connect" / "CONNECT";
    /// `:authority` names another pod than the one that was called.
    AuthorityMismatch = "authority_mismatch" / "CONNECT";
    /// The PROXY header that must come first is missing or malformed.
    BadProxyHeader = "bad_proxy_header" / "CONNECT";
    /// Something of ours failed: descriptors, namespaces, sockets.
    Internal = "internal" / "CONNECT";
}

impl CloseReason {
    /// Whether somebody did not answer in time while the connection was set up.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::TlsTimeout | Self::ConnectTimeout | Self::HboneTimeout)
    }

    /// Whether a policy, or what is known of an identity, forbade the connection.
    #[must_use]
    pub fn is_denial(self) -> bool {
        match self {
            // Of the peer's, and of ours.
            Self::NoPeerCertificate => true,
            Self::NoIdentity => false,
            other => matches!(other.response_flags(), "DENY" | "IDENTITY_ERROR" | "CERT_REVOKED"),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
