//! What the answers of the Workload API say, as domain types.

use crate::identity::{BundleSet, SpiffeId, TrustDomain, X509Svid};

/// One SVID with what it is for.
#[derive(Debug)]
pub struct HintedSvid {
    /// The SVID.
    pub svid: X509Svid,
    /// May be empty.
    pub hint: String,
}

/// All that a workload may have of X.509.
#[derive(Debug)]
pub struct X509Context {
    /// At least one, the default one first.
    pub svids: Vec<HintedSvid>,
    /// By trust domain, the own and the federated ones; with the CRLs in the own.
    pub bundles: BundleSet,
}

/// One JWT-SVID.
#[derive(Clone, Debug)]
pub struct HintedToken {
    /// Whose.
    pub id: SpiffeId,
    /// JWS Compact.
    pub token: String,
    /// May be empty.
    pub hint: String,
}

/// Key sets by trust domain, as they came.
pub type KeySets = Vec<(TrustDomain, Vec<u8>)>;
