//! What the connections, calls and streams of one Workload API server share.

use std::sync::Arc;

use tokio::sync::watch;

use super::{entitled::Registrations, limits::UsageLimits};
use crate::{credentials::Svids, identity::TrustDomain};

/// What all calls of one server share.
pub(super) struct Shared {
    pub(super) svids: Arc<Svids>,
    pub(super) trust_domain: TrustDomain,
    /// What is registered; `None` until the configuration is in force.
    pub(super) registered: watch::Sender<Option<Arc<Registrations>>>,
    pub(super) limits: UsageLimits,
}
