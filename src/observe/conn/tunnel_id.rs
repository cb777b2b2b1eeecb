//! Which tunnel a connection went through.

use std::{
    fmt,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;

/// The number of a tunnel, given when its two ends are proven; unique in this process. The
/// connections that share a tunnel have the same one in their records.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct TunnelId(NonZeroU64);

impl TunnelId {
    /// The next one, from 1 on.
    #[must_use]
    pub fn next() -> Self {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        Self(NonZeroU64::MIN.saturating_add(GIVEN.fetch_add(1, Relaxed)))
    }

    /// As logs have it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
