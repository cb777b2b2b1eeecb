//! What the endpoints show, and whether the process is ready.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;

use crate::{
    observe::{Refusal, logging::Logging},
    roles::node::Node,
    spiffe_api::federation::Federation,
};

/// What the endpoints show.
pub struct State {
    pub(super) node: Arc<Node>,
    pub(super) federation: Arc<Federation>,
    pub(super) logging: Logging,
    readiness: Mutex<Readiness>,
    /// Whether the mesh file is what is in force.
    pub file: Refusal,
    /// The metrics as last written, and when that began.
    pub(super) metrics: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
}

#[derive(Default)]
struct Readiness {
    loaded: bool,
    draining: bool,
    pending: Vec<String>,
    unprotected: Vec<String>,
    /// It was ready once.
    started: bool,
}

impl State {
    /// Not ready yet.
    #[must_use]
    pub fn new(node: Arc<Node>, federation: Arc<Federation>, logging: Logging) -> Self {
        let (readiness, metrics) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { node, federation, logging, readiness, file: Refusal::default(), metrics }
    }

    /// The configuration is in force.
    pub fn set_loaded(&self) {
        self.ready(|r| r.loaded = true);
    }

    /// The process is stopping.
    pub fn set_draining(&self) {
        self.ready(|r| r.draining = true);
    }

    /// Pods that could not be started.
    pub fn set_pending(&self, pending: Vec<String>) {
        self.ready(|r| r.pending = pending);
    }

    /// Names the pods whose capture rules are not those that adit applied, and why.
    pub fn set_unprotected(&self, unprotected: Vec<String>) {
        self.ready(|r| r.unprotected = unprotected);
    }

    /// What is waited for, if the process is not ready. Told as the readiness endpoint tells it.
    ///
    /// Beside a source that is down all is well until an identity in use has nothing left. At the
    /// start all pods must have theirs; a pod that comes later and gets none is not held against
    /// the others.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let (waiting, started) = self.ready(|r| {
            let waiting = match (r.draining, r.loaded) {
                (true, _) => Some("draining".to_owned()),
                (_, false) => Some("configuration".to_owned()),
                _ => {
                    let all = [&r.pending[..], &r.unprotected[..]].concat();
                    (!all.is_empty()).then(|| all.join("; "))
                }
            };
            (waiting, r.started)
        });
        let without = || {
            let budget = self.node.svids.outage_budget();
            let without = if started { budget.lost } else { budget.without };
            Some(without.join("; ")).filter(|without| !without.is_empty())
        };
        let waiting = waiting.or_else(without);
        if waiting.is_none() {
            self.ready(|r| r.started = true);
        }
        waiting
    }

    fn ready<T>(&self, look: impl FnOnce(&mut Readiness) -> T) -> T {
        look(&mut self.readiness.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
