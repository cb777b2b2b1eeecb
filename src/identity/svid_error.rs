//! Why an X.509-SVID is not accepted, by its leaf or by its chain, and the limits that the
//! sentences name.

use std::sync::Arc;

use super::{InvalidSpiffeId, SpiffeId, TrustDomain, words::length};

/// The most certificates of a chain that are read, leaf included.
pub(super) const MAX_CHAIN: usize = 8;

/// Which keys can prove something.
pub(crate) const KEYS: &str =
    "adit accepts RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519";

/// Why a certificate or its chain is not an acceptable X.509-SVID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// No certificate was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than anybody needs.
    #[error("the chain has {0} certificates, the limit is {max}", max = MAX_CHAIN)]
    ChainTooLong(usize),
    /// Not one DER certificate, or something after it.
    #[error("the leaf is not one DER X.509 certificate: {0}")]
    Encoding(String),
    /// No URI SAN (X509-SVID §2).
    #[error("the leaf has no URI SAN (X509-SVID §2)")]
    NoUriSan,
    /// More than one URI SAN, even of the same text (X509-SVID §2).
    #[error("the leaf has {count} URI SANs, an X.509-SVID has exactly one (X509-SVID §2)")]
    MultipleUriSans {
        /// How many.
        count: usize,
    },
    /// The URI SAN is not a SPIFFE ID.
    #[error("the leaf's URI SAN is not a SPIFFE ID: {0}")]
    NotSpiffeId(InvalidSpiffeId),
    /// The URI SAN names the trust domain itself (X509-SVID §4.1).
    #[error("the leaf's SPIFFE ID {0} has no path: it names the trust domain, not a workload")]
    NoPath(SpiffeId),
    /// `cA=true` in the leaf (X509-SVID §4.1).
    #[error(
        "the leaf is a CA certificate; a CA never authenticates as a workload (X509-SVID §4.1)"
    )]
    CaAsLeaf,
    /// Key usage is missing or wrong (X509-SVID §4.3).
    #[error("the leaf's key usage {0} (X509-SVID §4.3)")]
    KeyUsage(&'static str),
    /// A key with which nobody can prove anything in TLS.
    #[error("the leaf's key is {0}; {KEYS}")]
    Key(String),
    /// Extended key usage excludes this use (X509-SVID §4.4).
    #[error("the leaf's extended key usage does not allow this use (X509-SVID §4.4)")]
    Purpose,
    /// Past its end.
    #[error("the SVID of {id} expired at {at}, {} ago", length(*ago_seconds))]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// When.
        at: String,
        /// Since when.
        ago_seconds: u64,
    },
    /// Before its start.
    #[error(
        "the SVID of {id} is not valid yet: it becomes valid at {at}, in {}",
        length(*in_seconds)
    )]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// From when.
        at: String,
        /// Until when.
        in_seconds: u64,
    },
    /// There is no bundle for the leaf's trust domain.
    #[error("trust domain {0} has no bundle here")]
    UnknownTrustDomain(TrustDomain),
    /// No peer is trusted now, whatever it presents.
    #[error("no peer is trusted: {0}")]
    Withheld(Arc<str>),
    /// The chain does not lead to the bundle of the leaf's own trust domain.
    #[error("the chain does not lead to the bundle of its own trust domain: {0}")]
    Untrusted(String),
    /// A CRL names the leaf or an intermediate (RFC 5280 §6.3).
    #[error("the SVID of {id} is revoked: a CRL of its trust domain names {what} {serial}")]
    Revoked {
        /// Whose.
        id: SpiffeId,
        /// The leaf or an intermediate.
        what: &'static str,
        /// Serial number of that certificate, lower-case hex.
        serial: String,
    },
    /// A valid SVID of somebody else than was called.
    #[error("the peer is {presented}, expected {}", list(expected))]
    Mismatch {
        /// Who answered.
        presented: SpiffeId,
        /// Who should have.
        expected: Vec<SpiffeId>,
    },
}

fn list(ids: &[SpiffeId]) -> String {
    ids.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join(" or ")
}
