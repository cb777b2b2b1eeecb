//! The order in which connections to one destination arrive there: the one in which they were
//! made.
//!
//! What is sent on one way, one behind the other, arrives in that order without waiting. So a
//! connection is sent behind the one before it, and only if it goes another way it waits until
//! all before it have been answered, which is when they have arrived.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use tokio::time::timeout;

/// The connections to one destination that have not arrived yet.
#[derive(Debug, Default)]
pub struct Lane(Mutex<LaneState>);

#[derive(Debug, Default)]
struct LaneState {
    /// The number of the next ticket.
    next: u64,
    /// In the order of their numbers.
    unsent: VecDeque<Unsent>,
    /// By number, since when.
    unanswered: VecDeque<(u64, Instant)>,
    /// Where the last one was sent, while there is any ticket.
    sent: Option<Way>,
    /// What was chosen last, while there is any ticket.
    chosen: Option<Way>,
    /// Which worker has the last one.
    worker: usize,
}

#[derive(Debug)]
struct Unsent {
    number: u64,
    since: Instant,
    task: Option<Waker>,
}

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

/// How a connection goes.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By itself: those that are begun in order arrive in order.
    Plain,
    Tunnel(Arc<Usage>),
}

impl Way {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) => true,
            (Self::Tunnel(a), Self::Tunnel(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Who has waited so long holds nobody back any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where answers take longer, no connection is made to wait for them only for the balance.
const QUICK: Duration = Duration::from_millis(200);

/// On which worker the next connection of a lane is best served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tie {
    /// Anywhere.
    None,
    /// On the worker that has those before it; elsewhere it waits until they are answered.
    Loose(usize),
    /// On the worker that has those before it: answers are slow, and elsewhere it would wait long.
    Tight(usize),
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection, behind all that have entered.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Ticket {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.unsent.push_back(Unsent { number, since: Instant::now(), task: None });
        drop(state);
        Ticket { lane: Arc::clone(self), number }
    }
}

impl LaneState {
    /// Whether the ticket may be sent on this way now.
    fn may_send(&self, number: u64, way: &Way, now: Instant) -> bool {
        // All in all nobody waits longer than this.
        let own = self.unsent.iter().find(|unsent| unsent.number == number);
        if own.is_some_and(|own| !is_patient(own.since, now)) {
            return true;
        }
        let mut before = self.unsent.iter().take_while(|unsent| unsent.number < number);
        if before.any(|unsent| is_patient(unsent.since, now)) {
            return false;
        }
        self.sent.as_ref().is_none_or(|sent| sent.is(way))
            || !self.unanswered.iter().any(|(n, since)| *n < number && is_patient(*since, now))
    }

    /// Takes a ticket out, and wakes the one that may go for it.
    fn remove(&mut self, number: u64, now: Instant) {
        let unsent = self.unsent.binary_search_by_key(&number, |unsent| unsent.number);
        if let Ok(at) = unsent {
            self.unsent.remove(at);
        }
        if let Some(at) = self.unanswered.iter().position(|(n, _)| *n == number) {
            self.unanswered.remove(at);
        }
        if self.unanswered.is_empty() && self.unsent.is_empty() {
            (self.sent, self.chosen) = (None, None);
        }
        if unsent.is_ok() || !self.unanswered.iter().any(|(_, since)| is_patient(*since, now)) {
            self.wake_first();
        }
    }

    fn wake_first(&mut self) {
        if let Some(task) = self.unsent.iter_mut().find_map(|unsent| unsent.task.take()) {
            task.wake();
        }
    }
}

fn is_patient(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PATIENCE
}

/// One connection's place in its lane, until it is answered or given up.
#[derive(Debug)]
pub struct Ticket {
    lane: Arc<Lane>,
    number: u64,
}

impl Ticket {
    /// Of a connection that no other must be in order with.
    #[must_use]
    pub fn alone() -> Self {
        Arc::new(Lane::default()).enter()
    }

    /// Where it is best served.
    #[must_use]
    pub fn tie(&self) -> Tie {
        let state = self.lane.state();
        let now = Instant::now();
        let others = state.unsent.iter().filter(|unsent| unsent.number != self.number);
        let unsent = others.map(|unsent| unsent.since).find(|since| is_patient(*since, now));
        let mut unanswered = state.unanswered.iter().map(|(_, since)| *since);
        let unanswered = unanswered.find(|since| is_patient(*since, now));
        match unsent.into_iter().chain(unanswered).min() {
            None => Tie::None,
            Some(since) if now.saturating_duration_since(since) < QUICK => Tie::Loose(state.worker),
            Some(_) => Tie::Tight(state.worker),
        }
    }

    /// Which worker it was given to.
    pub fn goes_to(&self, worker: usize) {
        self.lane.state().worker = worker;
    }

    /// The tunnel that the one before it takes, while that has not arrived.
    pub(super) fn before(&self) -> Option<Arc<Usage>> {
        match self.lane.state().chosen.clone() {
            Some(Way::Tunnel(usage)) => Some(usage),
            _ => None,
        }
    }

    pub(super) fn chooses(&self, usage: &Arc<Usage>) {
        self.lane.state().chosen = Some(Way::Tunnel(Arc::clone(usage)));
    }

    /// Waits until it may be sent this way, which is then done without waiting and told with
    /// [`Ticket::sent`]. Cancel safe.
    pub(super) async fn turn(&self, way: &Way) {
        if self.lane.state().may_send(self.number, way, Instant::now()) {
            return;
        }
        loop {
            let turn = poll_fn(|cx| {
                let mut state = self.lane.state();
                if state.may_send(self.number, way, Instant::now()) {
                    return Poll::Ready(());
                }
                if let Ok(at) = state.unsent.binary_search_by_key(&self.number, |u| u.number) {
                    state.unsent[at].task = Some(cx.waker().clone());
                }
                Poll::Pending
            });
            if timeout(PATIENCE / 4, turn).await.is_ok() {
                return;
            }
        }
    }

    /// It is on its way.
    pub(super) fn sent(&self, way: Way) {
        let mut state = self.lane.state();
        let Ok(at) = state.unsent.binary_search_by_key(&self.number, |u| u.number) else { return };
        state.unsent.remove(at);
        state.unanswered.push_back((self.number, Instant::now()));
        state.sent = Some(way);
        state.wake_first();
    }

    /// Waits for the turn of a connection that goes by itself, and begins it.
    ///
    /// Cancel safe: what was begun is dropped.
    pub async fn begin<T>(self, work: impl Future<Output = T>) -> T {
        self.turn(&Way::Plain).await;
        let mut work = std::pin::pin!(work);
        if let Poll::Ready(done) = futures_util::poll!(work.as_mut()) {
            return done;
        }
        self.sent(Way::Plain);
        work.await
    }

    /// Puts it in line once more, at its old place: if it was sent, it did not arrive.
    pub(super) fn back(&self) {
        let mut state = self.lane.state();
        let at = state.unsent.partition_point(|unsent| unsent.number < self.number);
        if state.unsent.get(at).is_none_or(|unsent| unsent.number != self.number) {
            let unsent = Unsent { number: self.number, since: Instant::now(), task: None };
            state.unsent.insert(at, unsent);
            state.unanswered.retain(|(number, _)| *number != self.number);
        }
    }

    /// As [`Ticket::back`]; then yields once, so that those behind it whose tunnel failed too hear
    /// of it and are back in line before this one goes on.
    pub(super) async fn again(&self) {
        self.back();
        tokio::task::yield_now().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.state().remove(self.number, Instant::now());
    }
}

#[cfg(test)]
mod tests;
