//! A node hears of new authorities only with an SVID: the API has no other way to tell. So that
//! it knows them before they sign, one of its SVIDs is renewed now and then, long before its time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How long nothing may be heard: `adit ca rotate` gives peers three times this.
const EVERY: Duration = Duration::from_secs(60);

/// When an answer last came, and who has an SVID.
pub(super) struct AuthorityProbe(Mutex<ProbeState>);

struct ProbeState {
    last: Instant,
    /// By workload. Others ask by themselves, and may ask in vain.
    holders: HashSet<Arc<str>>,
}

impl AuthorityProbe {
    pub(super) fn new() -> Self {
        Self(Mutex::new(ProbeState { last: Instant::now(), holders: HashSet::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, ProbeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An SVID came for this workload.
    pub(super) fn heard(&self, uid: &Arc<str>) {
        let mut state = self.lock();
        state.last = Instant::now();
        state.holders.insert(Arc::clone(uid));
    }

    /// None came for it, or it has left.
    pub(super) fn no_more(&self, uid: &str) {
        self.lock().holders.remove(uid);
    }

    /// Waits until it is time to ask; of all that wait, one is told. Cancel safe.
    pub(super) async fn overdue(&self, uid: &str) {
        loop {
            let due = {
                let mut state = self.lock();
                let (now, due) = (Instant::now(), state.last + EVERY);
                if !state.holders.contains(uid) {
                    None
                } else if now >= due {
                    state.last = now;
                    return;
                } else {
                    Some(due)
                }
            };
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_of_many_asks_when_nothing_was_heard_for_a_minute() {
        let probe = AuthorityProbe::new();
        let minute = Duration::from_secs(60);
        let uids: Vec<Arc<str>> = (0..10).map(|n| n.to_string().into()).collect();
        uids.iter().for_each(|uid| probe.heard(uid));
        let told = async |within: Duration| {
            let all = uids.iter().map(|uid| tokio::time::timeout(within, probe.overdue(uid)));
            let all = futures_util::future::join_all(all).await;
            all.iter().filter(|told| told.is_ok()).count()
        };
        assert_eq!(told(minute - Duration::from_secs(1)).await, 0);
        assert_eq!(told(Duration::from_secs(2)).await, 1);
        assert_eq!(told(minute / 2).await, 0);
        probe.heard(&uids[3]);
        assert_eq!(told(minute - Duration::from_secs(1)).await, 0, "counted from the last answer");
        assert_eq!(told(Duration::from_secs(2)).await, 1);
        uids.iter().for_each(|uid| probe.no_more(uid));
        assert_eq!(told(10 * minute).await, 0, "who has none asks by itself");
    }
}
