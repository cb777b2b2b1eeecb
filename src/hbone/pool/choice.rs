//! The tunnels that a pool has, and which of them a new stream takes. No waiting and no dialling
//! here: that is [`super::Pool`]'s.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::hbone::{
    client::{Dial, DialState},
    order::{StreamSlot, Usage},
};

pub(super) struct PoolEntry {
    pub(super) dial: Arc<Dial>,
    pub(super) usage: Arc<Usage>,
    /// When it was dialled.
    pub(super) begun: Instant,
    /// When the SVID that it shows became valid.
    pub(super) issued: SystemTime,
    /// Ends it after its last stream.
    pub(super) retire: CancellationToken,
}

impl PoolEntry {
    /// A place for one stream.
    pub(super) fn take(&self) -> (Arc<Dial>, StreamSlot) {
        (Arc::clone(&self.dial), StreamSlot::take(&self.usage))
    }

    /// Room under our own limit and the peer's (RFC 9113 §5.1.2).
    pub(super) fn has_room(&self, limit: usize) -> bool {
        match &*self.dial.state() {
            DialState::Up(client) if !client.has_room() => return false,
            DialState::Failed(_) => return false,
            _ => {}
        }
        !self.usage.closed.load(Relaxed) && self.usage.streams.load(Relaxed) < limit
    }

    /// The lower the sooner a stream gets through here.
    pub(super) fn rank(&self) -> Rank {
        match &*self.dial.state() {
            DialState::Up(client) if client.is_busy() => {
                Rank::Busy(self.usage.streams.load(Relaxed))
            }
            DialState::Up(_) => Rank::Calm,
            _ => Rank::Dialling,
        }
    }

    fn is_over(&self) -> bool {
        self.usage.closed.load(Relaxed) || matches!(&*self.dial.state(), DialState::Failed(_))
    }
}

/// Which tunnel a new stream takes, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    Calm,
    /// Something large is on its way there, and the stream would wait behind it; the fewer
    /// streams share it the better.
    Busy(usize),
    Dialling,
}

/// The tunnels to one peer.
#[derive(Default)]
pub(super) struct Tunnels {
    pub(super) all: Vec<PoolEntry>,
    /// How many of them have no stream.
    pub(super) unused: Arc<AtomicUsize>,
    /// When one was last seen to have failed.
    failed: Option<Instant>,
}

impl Tunnels {
    /// Forgets those that are over.
    pub(super) fn prune(&mut self) {
        if self.all.iter().any(|t| matches!(&*t.dial.state(), DialState::Failed(_))) {
            self.failed = Some(Instant::now());
        }
        self.all.retain(|t| !t.is_over());
    }

    /// Of those that are open the one that a stream takes. It stays on that of the one `before` it,
    /// behind which it arrives without waiting, unless it would wait there longer.
    pub(super) fn best(
        &self,
        is_open: impl Fn(&PoolEntry) -> bool,
        before: Option<Arc<Usage>>,
    ) -> Option<&PoolEntry> {
        let open = || self.all.iter().filter(|t| is_open(t));
        let best = open().min_by_key(|t| t.rank());
        let behind = before.and_then(|before| open().find(|t| Arc::ptr_eq(&t.usage, &before)));
        match (best, behind) {
            (Some(best), Some(behind)) if best.rank() == Rank::Calm => {
                Some(if behind.rank() == Rank::Calm { behind } else { best })
            }
            (_, Some(behind)) => Some(behind),
            (best, None) => best,
        }
    }

    /// Whether one more may be dialled only because the others are busy: one dial at a time,
    /// and not right behind one that failed.
    pub(super) fn may_spread(&self) -> bool {
        self.all.len() < MOST_SPREAD
            && self.failed.is_none_or(|at| at.elapsed() >= NO_SPREAD)
            && self.all.iter().all(|t| t.rank() != Rank::Dialling)
    }
}

/// With so many tunnels to one peer no more are dialled because the others are busy.
const MOST_SPREAD: usize = 4;
/// For so long after a failure none is dialled because the others are busy.
const NO_SPREAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hbone::ConnectError;

    fn entry(state: DialState) -> PoolEntry {
        let dial = Arc::<Dial>::default();
        dial.say(state);
        PoolEntry {
            dial,
            usage: Arc::default(),
            begun: Instant::now(),
            issued: SystemTime::now(),
            retire: CancellationToken::new(),
        }
    }

    #[test]
    fn a_dial_that_failed_is_not_repeated_at_once_only_to_spread() {
        let mut tunnels = Tunnels::default();
        assert!(tunnels.may_spread());
        tunnels.all.push(entry(DialState::Dialling));
        assert!(!tunnels.may_spread(), "one at a time");
        tunnels.all.clear();
        let addr = "10.0.0.1:15008".parse().unwrap();
        tunnels.all.push(entry(DialState::Failed(ConnectError::broken(addr, "refused"))));
        tunnels.prune();
        assert!(tunnels.all.is_empty() && !tunnels.may_spread());
        tunnels.failed = Instant::now().checked_sub(NO_SPREAD);
        assert!(tunnels.may_spread());
    }

    #[test]
    fn a_stream_stays_on_the_tunnel_of_the_one_before_it() {
        let mut tunnels = Tunnels::default();
        tunnels.all.extend([DialState::Dialling, DialState::Dialling].map(entry));
        let at = |open: fn(usize) -> bool, before: Option<usize>| {
            let usage = |n: usize| Arc::clone(&tunnels.all[n].usage);
            let is_open = |t: &PoolEntry| {
                open(tunnels.all.iter().position(|other| std::ptr::eq(other, t)).unwrap())
            };
            let best = tunnels.best(is_open, before.map(usage))?;
            tunnels.all.iter().position(|other| std::ptr::eq(other, best))
        };
        assert_eq!(at(|_| true, None), Some(0));
        assert_eq!(at(|_| true, Some(1)), Some(1));
        assert_eq!(at(|n| n == 0, Some(1)), Some(0), "that one has no room");
        assert_eq!(at(|_| false, Some(1)), None);
    }

    #[test]
    fn the_calm_come_first_and_then_who_has_few() {
        let mut ranks = [Rank::Dialling, Rank::Busy(3), Rank::Calm, Rank::Busy(1)];
        ranks.sort();
        assert_eq!(ranks, [Rank::Calm, Rank::Busy(1), Rank::Busy(3), Rank::Dialling]);
    }
}
