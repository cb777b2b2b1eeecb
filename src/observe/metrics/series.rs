//! The counters that an open connection holds.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use prometheus::IntCounter;

/// The counters of one label set of an open connection.
#[derive(Debug)]
pub struct Series {
    opened: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    used: Mutex<Instant>,
}

impl Series {
    pub(super) fn new(opened: IntCounter, received: IntCounter, sent: IntCounter) -> Self {
        Self { opened, received, sent, used: Mutex::new(Instant::now()) }
    }

    /// One connection more.
    pub fn opened(&self) {
        self.opened.inc();
    }

    /// Bytes since the last call.
    pub fn add_bytes(&self, received: u64, sent: u64) {
        self.received.inc_by(received);
        self.sent.inc_by(sent);
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When it was last counted in.
    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
