//! The table of open connections: what `/connections` shows and what re-checks walk over.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Instant,
};

use futures_util::task::AtomicWaker;

use super::{ConnMetadata, ConnectionView, EndView, Events};
use crate::{
    net::{CloseReason, Direction, Flow, PeerAddr},
    observe::metrics::Series,
};

/// How much a relay has moved each way. Shared with whoever moves, shows or limits it.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the local application (or whoever was accepted) to the far side, in bytes.
    pub up: AtomicU64,
    /// Back.
    pub down: AtomicU64,
}

/// One open connection. Shared by the task that carries it and the table.
#[derive(Debug)]
pub struct LiveConn {
    /// Unique in this process.
    pub id: u64,
    /// Seen from the local pod.
    pub direction: Direction,
    /// The TCP peer.
    pub peer: PeerAddr,
    /// When it was accepted.
    pub opened: Instant,
    /// Bytes that have moved.
    pub meter: Arc<Meter>,
    facts: Mutex<ConnMetadata>,
    cut: OnceLock<CloseReason>,
    task: AtomicWaker,
    pub(super) series: OnceLock<Arc<Series>>,
    /// What of [`Self::moved`] is in the metrics.
    flushed: (AtomicU64, AtomicU64),
}

impl LiveConn {
    /// Reads or amends what is known.
    pub fn metadata<T>(&self, look: impl FnOnce(&mut ConnMetadata) -> T) -> T {
        look(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the connection from outside; the first reason stays.
    pub fn cut(&self, reason: CloseReason) {
        let _ = self.cut.set(reason);
        self.task.wake();
    }

    /// Closes the connection with `reason`, and `why` as the error in its record. Returns false if
    /// it was being closed already.
    pub fn close_by(&self, reason: CloseReason, why: &str) -> bool {
        if self.was_cut().is_some() {
            return false;
        }
        self.metadata(|f| f.error = Some(format!("closed: {why}").into()));
        self.cut(reason);
        true
    }

    /// Why somebody cut the connection, if so.
    #[must_use]
    pub fn was_cut(&self) -> Option<CloseReason> {
        self.cut.get().copied()
    }

    /// Waits until somebody cuts the connection; for the one task that carries it. Cancel safe.
    pub async fn until_cut(&self) -> CloseReason {
        poll_fn(|cx| {
            self.task.register(cx.waker());
            self.cut.get().map_or(Poll::Pending, |reason| Poll::Ready(*reason))
        })
        .await
    }

    /// What its policy was evaluated on, for re-checks; `None` before that, and outbound.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let (direction, peer) = (self.direction, self.peer);
        if direction == Direction::Outbound {
            return None;
        }
        self.metadata(|f| {
            let peer_id = f.src.id.clone();
            let foreign = match (&peer_id, &f.dst.id) {
                (Some(peer), Some(own)) => peer.trust_domain() != own.trust_domain(),
                (Some(_), None) => true,
                (None, _) => false,
            };
            let other_principals = Vec::new();
            f.flow_dst.map(|dst| Flow { direction, peer, peer_id, foreign, other_principals, dst })
        })
    }

    /// Moves the bytes counted since the last call to the metrics.
    pub fn flush_bytes(&self) {
        let Some(series) = self.series.get() else { return };
        let (there, back) = self.moved();
        // Of two that flush at once, each adds what the other has not.
        let more = |flushed: &AtomicU64, now: u64| now - flushed.fetch_max(now, Relaxed).min(now);
        series.add_bytes(more(&self.flushed.0, there), more(&self.flushed.1, back));
    }

    /// Bytes from the source of the connection towards its destination, and back.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        let (up, down) = (self.meter.up.load(Relaxed), self.meter.down.load(Relaxed));
        match self.direction {
            Direction::Outbound => (up, down),
            Direction::Inbound => (down, up),
        }
    }

    /// Bytes that the local side has sent and received, as the access log counts them.
    #[must_use]
    pub fn sent_and_received(&self) -> (u64, u64) {
        (self.meter.up.load(Relaxed), self.meter.down.load(Relaxed))
    }

    /// What is known now, as programs read it.
    #[must_use]
    pub fn view(&self) -> ConnectionView {
        self.metadata(|facts| self.view_of(facts))
    }

    /// What is known now, as programs read it, for a caller that has the metadata already.
    pub(super) fn view_of(&self, facts: &ConnMetadata) -> ConnectionView {
        let (bytes_sent, bytes_received) = self.sent_and_received();
        ConnectionView {
            id: self.id,
            direction: self.direction.as_str(),
            src: self.peer.0,
            dst: facts.dst_addr,
            hbone_addr: facts.hbone_addr.as_deref().map(ToOwned::to_owned),
            tunnel: facts.tunnel,
            protocol: facts.protocol,
            service: facts.service.as_deref().map(ToOwned::to_owned),
            source: EndView::of(&facts.src),
            destination: EndView::of(&facts.dst),
            tls: facts.tls.as_deref().cloned(),
            policy: facts.policy.as_deref().map(ToOwned::to_owned),
            local_workload: facts.pod.as_ref().map(ToString::to_string),
            bytes_received,
            bytes_sent,
            age_seconds: self.opened.elapsed().as_secs_f64(),
        }
    }
}

/// All open connections of the process.
#[derive(Debug, Default)]
pub struct LiveTable {
    next: AtomicU64,
    conns: Mutex<HashMap<u64, Arc<LiveConn>>>,
    /// What may still be written of connections that fail.
    pub(super) log_shares: super::log_share::LogShares,
    /// Records are written in Istio's words.
    istio: AtomicBool,
    /// What policies decide is told as soon as it is.
    decisions: AtomicBool,
    events: Arc<Events>,
}

impl LiveTable {
    pub(super) fn add(&self, direction: Direction, peer: SocketAddr) -> Arc<LiveConn> {
        let conn = Arc::new(LiveConn {
            id: self.next.fetch_add(1, Relaxed),
            direction,
            peer: PeerAddr(peer),
            opened: Instant::now(),
            meter: Arc::default(),
            facts: Mutex::default(),
            cut: OnceLock::new(),
            task: AtomicWaker::new(),
            series: OnceLock::new(),
            flushed: Default::default(),
        });
        self.lock().insert(conn.id, Arc::clone(&conn));
        conn
    }

    pub(super) fn remove(&self, id: u64) {
        let mut conns = self.lock();
        conns.remove(&id);
        if conns.len() * 8 < conns.capacity() && conns.capacity() > 1024 {
            conns.shrink_to_fit();
        }
    }

    /// The connections open now, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveConn>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|c| c.id);
        all
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What `/connections` answers.
    #[must_use]
    pub fn views(&self) -> Vec<ConnectionView> {
        self.all().iter().map(|conn| conn.view()).collect()
    }

    /// What happens to connections from now on.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// From here on records are written in the words and at the levels of Istio's ambient mesh.
    pub fn speak_as_istio(&self) {
        self.istio.store(true, Relaxed);
    }

    pub(super) fn speaks_as_istio(&self) -> bool {
        self.istio.load(Relaxed)
    }

    /// From here on the line that says which policy let a caller in is written when it comes in, and
    /// not only when it leaves (`AUTHZ_POLICY_INFO_LOGGING`).
    pub fn tell_decisions(&self) {
        self.decisions.store(true, Relaxed);
    }

    pub(super) fn tells_decisions(&self) -> bool {
        self.decisions.load(Relaxed)
    }

    /// Gives up room that a burst has left.
    pub fn shrink(&self) {
        self.lock().shrink_to_fit();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<LiveConn>>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
