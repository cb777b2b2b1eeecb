//! The order in which connections to one destination arrive there: the one in which they were
//! made.
//!
//! What is sent on one way, one behind the other, arrives in that order without waiting. So a
//! connection is sent behind the one before it, and only if it goes another way it waits until
//! all before it have been answered, which is when they have arrived.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::usage::Usage;

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

/// Where the next connection of a lane is best served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tie {
    /// Anywhere.
    None,
    /// On the worker that has those before it; elsewhere it waits for them.
    Loose(usize),
    /// The same, and answers are slow.
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

    /// It did not arrive, if it was sent, and is to be sent again.
    pub(super) fn back(&self) {
        let mut state = self.lane.state();
        let at = state.unsent.partition_point(|unsent| unsent.number < self.number);
        if state.unsent.get(at).is_none_or(|unsent| unsent.number != self.number) {
            let unsent = Unsent { number: self.number, since: Instant::now(), task: None };
            state.unsent.insert(at, unsent);
            state.unanswered.retain(|(number, _)| *number != self.number);
        }
    }

    /// The same, while those behind it that share its fate hear of that and come back too.
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
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn tunnels() -> [Way; 2] {
        [(); 2].map(|()| Way::Tunnel(Arc::default()))
    }

    fn lane(tickets: usize) -> (Arc<Lane>, Vec<Option<Ticket>>) {
        let lane = Arc::<Lane>::default();
        let all = (0..tickets).map(|_| Some(lane.enter())).collect();
        (lane, all)
    }

    fn goes(ticket: &Option<Ticket>, way: &Way) -> bool {
        let ticket = ticket.as_ref().unwrap();
        let goes = ticket.turn(way).now_or_never().is_some();
        if goes {
            ticket.sent(way.clone());
        }
        goes
    }

    #[tokio::test]
    async fn on_one_way_nobody_waits_for_an_answer() {
        let ([way, _], (_lane, tickets)) = (tunnels(), lane(3));
        assert!(!goes(&tickets[1], &way), "the first has not been sent");
        assert!(tickets.iter().all(|ticket| goes(ticket, &way)));
    }

    #[tokio::test]
    async fn another_way_is_taken_once_all_before_have_been_answered() {
        let ([way, other], (_lane, mut tickets)) = (tunnels(), lane(4));
        assert!(goes(&tickets[0], &way) && goes(&tickets[1], &way));
        tickets[1] = None;
        assert!(!goes(&tickets[2], &other));
        tickets[0] = None;
        assert!(goes(&tickets[2], &other) && !goes(&tickets[3], &way) && goes(&tickets[3], &other));
    }

    #[tokio::test]
    async fn who_gives_up_holds_nobody_back() {
        let ([way, _], (_lane, mut tickets)) = (tunnels(), lane(2));
        let second = tickets.pop().unwrap().unwrap();
        let mut turn = std::pin::pin!(second.turn(&way));
        assert!(turn.as_mut().now_or_never().is_none());
        drop(tickets);
        timeout(Duration::from_secs(1), turn).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_never_answered_holds_nobody_back_for_long() {
        let ([way, other], (_lane, tickets)) = (tunnels(), lane(2));
        assert!(goes(&tickets[0], &way) && !goes(&tickets[1], &other));
        // The tickets go by the clock of the machine.
        std::thread::sleep(PATIENCE);
        assert!(goes(&tickets[1], &other));
    }

    #[tokio::test]
    async fn what_comes_back_goes_ahead_of_what_is_behind_it() {
        let ([way, other], (_lane, tickets)) = (tunnels(), lane(3));
        assert!(goes(&tickets[0], &way) && goes(&tickets[1], &way));
        for n in [1, 0] {
            tickets[n].as_ref().unwrap().back();
        }
        assert!(!goes(&tickets[1], &other) && !goes(&tickets[2], &other));
        assert!(tickets.iter().all(|ticket| goes(ticket, &other)));
    }

    #[tokio::test]
    async fn a_connection_is_tied_to_those_that_have_not_arrived() {
        let ([way, _], (lane, mut tickets)) = (tunnels(), lane(1));
        assert_eq!(tickets[0].as_ref().unwrap().tie(), Tie::None);
        tickets[0].as_ref().unwrap().goes_to(3);
        let second = lane.enter();
        assert_eq!(second.tie(), Tie::Loose(3));
        assert!(goes(&tickets[0], &way));
        assert_eq!(second.tie(), Tie::Loose(3));
        std::thread::sleep(QUICK);
        assert_eq!(second.tie(), Tie::Tight(3));
        tickets[0] = None;
        assert_eq!(second.tie(), Tie::None);
    }
}
