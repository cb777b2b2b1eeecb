//! Who may call next. Pure ([`CallScheduler`]); [`Queue`] only waits.
//!
//! At most [`AT_ONCE`] calls run; the others stand in line by urgency, and in the order they
//! came within one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::credentials::Urgency;

/// How many calls run at once.
pub(super) const AT_ONCE: usize = 8;

type Ticket = u64;

/// Which calls run and which wait. No clock, no task.
#[derive(Debug, Default)]
struct CallScheduler {
    running: usize,
    last: Ticket,
    waiting: [VecDeque<(Ticket, Arc<str>)>; 3],
}

impl CallScheduler {
    /// Somebody comes for `uid`: `None` if it may go at once.
    fn come(&mut self, uid: &Arc<str>, urgency: Urgency) -> Option<Ticket> {
        if self.running < AT_ONCE {
            self.running += 1;
            return None;
        }
        self.last += 1;
        self.waiting[urgency as usize].push_back((self.last, Arc::clone(uid)));
        Some(self.last)
    }

    /// Somebody waits for `uid` now: whoever is in line for it goes among the first.
    fn urge(&mut self, uid: &str) {
        for urgency in [Urgency::WarmUp, Urgency::Background] {
            let line = &mut self.waiting[urgency as usize];
            let Some(at) = line.iter().position(|(_, other)| **other == *uid) else { continue };
            let found = line.remove(at);
            self.waiting[Urgency::OnDemand as usize].extend(found);
        }
    }

    /// A call is over; who goes next takes its place.
    fn over(&mut self) -> Option<Ticket> {
        let next = self.waiting.iter_mut().find_map(VecDeque::pop_front).map(|(ticket, _)| ticket);
        self.running -= usize::from(next.is_none());
        next
    }

    /// Somebody in line gave up.
    fn leave(&mut self, ticket: Ticket) {
        self.waiting.iter_mut().for_each(|line| line.retain(|(other, _)| *other != ticket));
    }
}

#[derive(Debug, Default)]
struct Inner {
    scheduler: CallScheduler,
    calls: HashMap<Ticket, oneshot::Sender<()>>,
}

/// Waits for a turn.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Inner>);

/// The right to make one call, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Queue);

/// A place in line; dropping it gives it up, or hands the turn on that it was just given.
struct QueuedCall<'a> {
    queue: &'a Queue,
    ticket: Ticket,
    came: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to ask for `uid`. Cancel safe.
    pub(super) async fn turn(&self, uid: &Arc<str>, urgency: Urgency) -> Turn<'_> {
        let waiting = {
            let mut inner = self.lock();
            inner.scheduler.come(uid, urgency).map(|ticket| {
                let (say, called) = oneshot::channel();
                inner.calls.insert(ticket, say);
                (ticket, called)
            })
        };
        if let Some((ticket, called)) = waiting {
            let mut queued = QueuedCall { queue: self, ticket, came: false };
            queued.came = called.await.is_ok();
        }
        Turn(self)
    }

    /// See [`CallScheduler::urge`].
    pub(super) fn urge(&self, uid: &str) {
        self.lock().scheduler.urge(uid);
    }

    fn over(&self) {
        let mut inner = self.lock();
        // Whoever does not listen any more gave up, and passes its turn on by itself.
        if let Some(next) = inner.scheduler.over()
            && let Some(say) = inner.calls.remove(&next)
        {
            let _ = say.send(());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl Drop for QueuedCall<'_> {
    fn drop(&mut self) {
        if self.came {
            return;
        }
        let in_line = {
            let mut inner = self.queue.lock();
            inner.scheduler.leave(self.ticket);
            inner.calls.remove(&self.ticket).is_some()
        };
        if !in_line {
            self.queue.over();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> Arc<str> {
        name.into()
    }

    fn full() -> CallScheduler {
        let mut scheduler = CallScheduler::default();
        assert!(
            (0..AT_ONCE).all(|n| scheduler.come(&uid(&n.to_string()), Urgency::WarmUp).is_none())
        );
        scheduler
    }

    #[test]
    fn on_demand_goes_before_warm_up_before_background() {
        let mut scheduler = full();
        let [slow, warm, warm2, now] =
            [Urgency::Background, Urgency::WarmUp, Urgency::WarmUp, Urgency::OnDemand]
                .map(|urgency| scheduler.come(&uid("x"), urgency));
        let order: Vec<_> = (0..5).map(|_| scheduler.over()).collect();
        assert_eq!(order, [now, warm, warm2, slow, None]);
        assert_eq!(scheduler.running, AT_ONCE - 1);
    }

    #[test]
    fn who_is_waited_for_goes_among_the_first_and_who_gives_up_is_not_called() {
        let mut scheduler = full();
        let [first, second, third] =
            ["a", "b", "c"].map(|name| scheduler.come(&uid(name), Urgency::WarmUp));
        scheduler.urge("c");
        scheduler.urge("nobody");
        scheduler.leave(first.unwrap());
        assert_eq!([scheduler.over(), scheduler.over(), scheduler.over()], [third, second, None]);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_handed_on() {
        let queue = Queue::default();
        let mut turns = Vec::new();
        for n in 0..AT_ONCE {
            turns.push(queue.turn(&uid(&n.to_string()), Urgency::WarmUp).await);
        }
        let (a, b) = (uid("a"), uid("b"));
        let mut gone = Box::pin(queue.turn(&a, Urgency::OnDemand));
        let mut stays = Box::pin(queue.turn(&b, Urgency::WarmUp));
        assert!(futures_util::poll!(&mut gone).is_pending());
        assert!(futures_util::poll!(&mut stays).is_pending());
        turns.pop(); // calls `gone`,
        drop(gone); // which does not come.
        let _turn = stays.await;
        assert_eq!(queue.lock().scheduler.running, AT_ONCE);
        assert!(queue.lock().calls.is_empty());
    }
}
