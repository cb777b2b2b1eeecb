//! What is remembered of a workload's last fetch, to see whether it must be given anew.

use std::{sync::Arc, time::SystemTime};

/// How things stood when a workload last asked.
pub(super) struct LastFetch {
    /// The authority that was active.
    pub(super) under: Arc<str>,
    /// Whether its identity was banned.
    pub(super) banned: bool,
    /// When this may be forgotten.
    pub(super) until: SystemTime,
}
