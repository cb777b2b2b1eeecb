//! How much a tunnel of the client side is used.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

/// How much a tunnel is used; shared by the pool, the streams and the driver.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) streams: AtomicUsize,
    /// It takes no new streams, and ends with its last.
    pub(super) closed: AtomicBool,
    /// How many tunnels to the same peer have no stream.
    pub(super) unused: Arc<AtomicUsize>,
}

/// One stream's place in its tunnel, given back on drop.
#[derive(Debug)]
pub(super) struct StreamSlot(pub(super) Arc<Usage>);

impl StreamSlot {
    pub(super) fn take(usage: &Arc<Usage>) -> Self {
        usage.streams.fetch_add(1, Relaxed);
        Self(Arc::clone(usage))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}
