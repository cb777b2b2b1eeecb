//! Who was cut off for a flood, and for how long: longer after each that follows soon.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Who was cut off, and until when.
#[derive(Debug)]
pub(super) struct CutOff<K>(pub(super) HashMap<K, Pause>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Instant,
    length: Duration,
}

impl<K> Default for CutOff<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> CutOff<K> {
    /// How much longer it is not taken.
    pub(super) fn left(&self, whom: &K, now: Instant) -> Option<Duration> {
        let left = self.0.get(whom)?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// It flooded its tunnel.
    pub(super) fn add(&mut self, whom: K, now: Instant) {
        let forgiven = |pause: &Pause| now.saturating_duration_since(pause.until) >= FORGIVEN;
        if self.0.len() >= MOST_KNOWN && !self.0.contains_key(&whom) {
            self.0.retain(|_, pause| !forgiven(pause));
            if self.0.len() >= MOST_KNOWN
                && let Some(first) = self.0.iter().min_by_key(|(_, pause)| pause.until)
            {
                let first = first.0.clone();
                self.0.remove(&first);
            }
        }
        let length = match self.0.get(&whom) {
            // Of several tunnels that are cut off together, the first counts.
            Some(pause) if pause.until > now => return,
            Some(pause) if !forgiven(pause) => (pause.length * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.0.insert(whom, Pause { until: now + length, length });
    }
}

/// How long a caller is not taken after its first flood; twice as long after each that follows …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A caller that behaves for so long is as one that never flooded.
pub(super) const FORGIVEN: Duration = Duration::from_secs(120);
/// How many callers are remembered.
pub(super) const MOST_KNOWN: usize = 4_096;
