//! Who this process is at one moment.

use std::sync::Arc;

use super::{BundleSet, X509Svid};

/// Our own identity at this moment, and whom it trusts.
#[derive(Clone, Debug)]
pub struct LocalIdentity {
    /// Shown to the peer.
    pub svid: Arc<X509Svid>,
    /// What the peer's SVID is checked against.
    pub bundles: Arc<BundleSet>,
}
