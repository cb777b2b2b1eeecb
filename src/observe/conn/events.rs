//! What happens to connections, for whoever listens: a bounded broadcast. Who is slow loses the
//! oldest events and is told how many; nothing waits for anybody. While nobody listens an event
//! costs one load.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

use super::ConnectionView;
use crate::net::CloseReason;

/// How many events are kept for those who have not read them yet.
const KEPT: usize = 1024;
/// How many may listen at a time: those whom an endpoint has places for, and as many that are being
/// closed for others.
const MOST_SUBSCRIBERS: usize = 16;

/// What has happened to a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Its ends are known and it may flow.
    Opened,
    /// It ended.
    Closed,
    /// It was refused, or cut, by a policy or for an identity.
    Denied,
}

/// One event. A connection ends in one that is closed or denied, opened or not before.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionEvent {
    /// What has happened.
    pub event: EventKind,
    /// When, RFC 3339.
    pub time: String,
    /// To which connection.
    pub connection: ConnectionView,
    /// Why it ended, in the words of the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ConnectionEvent {
    pub(super) fn opened(connection: ConnectionView) -> Self {
        Self { event: EventKind::Opened, time: now(), connection, reason: None, error: None }
    }

    pub(super) fn ended(
        connection: ConnectionView,
        reason: CloseReason,
        error: Option<&str>,
    ) -> Self {
        Self {
            event: if reason.is_denial() { EventKind::Denied } else { EventKind::Closed },
            time: now(),
            connection,
            reason: Some(reason.as_str()),
            error: error.map(ToOwned::to_owned),
        }
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Notification {
    /// The next event.
    Event(Arc<ConnectionEvent>),
    /// So many were lost before the next one: the subscriber was slow.
    Lost(u64),
}

/// The events of a process.
#[derive(Debug, Default)]
pub struct Events {
    /// As many as `sender` has; read without its lock.
    subscribers: AtomicUsize,
    /// While somebody listens.
    sender: Mutex<Option<broadcast::Sender<Arc<ConnectionEvent>>>>,
}

impl Events {
    /// Everything from now on; `None` where as many listen as may.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Option<Subscription> {
        let mut sender = self.lock();
        let listening = self.subscribers.load(Relaxed);
        if listening >= MOST_SUBSCRIBERS {
            return None;
        }
        let sender = sender.get_or_insert_with(|| broadcast::Sender::new(KEPT));
        self.subscribers.store(listening + 1, Relaxed);
        Some(Subscription { events: Arc::clone(self), receiver: sender.subscribe() })
    }

    /// Tells whoever listens; `make` is called only then.
    pub(super) fn publish(&self, make: impl FnOnce() -> ConnectionEvent) {
        if self.subscribers.load(Relaxed) == 0 {
            return;
        }
        let event = Arc::new(make());
        if let Some(sender) = &*self.lock() {
            let _ = sender.send(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<broadcast::Sender<Arc<ConnectionEvent>>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who listens, until dropped.
#[derive(Debug)]
pub struct Subscription {
    events: Arc<Events>,
    receiver: broadcast::Receiver<Arc<ConnectionEvent>>,
}

impl Subscription {
    /// The next event; none once there will be no more. Cancel safe.
    pub async fn next(&mut self) -> Option<Notification> {
        match self.receiver.recv().await {
            Ok(event) => Some(Notification::Event(event)),
            Err(RecvError::Lagged(lost)) => Some(Notification::Lost(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut sender = self.events.lock();
        let left = self.events.subscribers.load(Relaxed).saturating_sub(1);
        self.events.subscribers.store(left, Relaxed);
        if left == 0 {
            *sender = None;
        }
    }
}

#[cfg(test)]
mod tests;
