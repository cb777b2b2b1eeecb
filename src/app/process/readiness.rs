//! What the service manager hears of a process that becomes ready by and by.

use crate::lifecycle::ServiceManager;

/// Tells each change once.
pub(in crate::app) struct Readiness {
    heard: bool,
    ready: bool,
    reloading: bool,
    status: String,
}

impl Readiness {
    /// Nothing is told yet.
    pub(in crate::app) fn new(manager: &ServiceManager) -> Self {
        let heard = manager.is_there();
        Self { heard, ready: false, reloading: false, status: String::new() }
    }

    /// Files are read again. [`Readiness::look`] tells the end of it.
    pub(in crate::app) fn reloading(&mut self, manager: &ServiceManager) {
        // READY has to follow, which who has not been ready yet must not say.
        if self.ready {
            self.reloading = true;
            manager.reloading();
        }
    }

    /// `now` says what the process does and what it waits for; it is not asked where nobody hears
    /// it. `settled` is whether what a reload began has been done.
    pub(in crate::app) fn look(
        &mut self,
        manager: &ServiceManager,
        settled: bool,
        now: impl FnOnce() -> (String, Option<String>),
    ) {
        if !self.heard {
            return;
        }
        let (does, waits) = now();
        let is_ready = self.ready || waits.is_none();
        let status = match waits {
            None => does,
            Some(waits) => format!("{does}; waiting for {waits}"),
        };
        if (is_ready && !self.ready) || (self.reloading && settled) {
            (self.ready, self.reloading) = (true, false);
            manager.ready(&status);
        } else if status != self.status && !self.reloading {
            manager.status(&status);
        } else {
            return;
        }
        self.status = status;
    }
}
