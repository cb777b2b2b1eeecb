//! Keys that name nothing, as far as the control plane has said: they are not asked for again with
//! each connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long it counts that a key names nothing.
const COUNTS: Duration = Duration::from_secs(60);
/// How many are remembered; beyond that all are forgotten, and asked for once more.
const MOST: usize = 4096;

/// Shared by those who ask and the one who hears.
#[derive(Debug, Default)]
pub(super) struct Absent(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    since: HashMap<Arc<str>, Instant>,
    /// There is nobody to ask.
    is_away: bool,
}

impl Absent {
    /// The key names nothing.
    pub(super) fn insert(&self, key: &Arc<str>, now: Instant) {
        let mut keys = self.keys();
        if keys.since.len() >= MOST {
            keys.since.clear();
        }
        keys.since.insert(Arc::clone(key), now);
    }

    /// Whether that was said a moment ago, or at all while nobody can be asked.
    pub(super) fn has(&self, key: &str, now: Instant) -> bool {
        let keys = self.keys();
        let since = keys.since.get(key);
        since.is_some_and(|since| keys.is_away || now.saturating_duration_since(*since) < COUNTS)
    }

    /// A stream begins: what an earlier one said is to be asked again.
    pub(super) fn begin(&self) {
        *self.keys() = Keys::default();
    }

    /// There is no stream any more.
    pub(super) fn end(&self) {
        self.keys().is_away = true;
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_is_asked_again_after_a_minute_or_on_a_new_stream() {
        let (absent, now) = (Absent::default(), Instant::now());
        let key: Arc<str> = "/10.0.0.1".into();
        assert!(!absent.has(&key, now));
        absent.insert(&key, now);
        assert!(absent.has(&key, now + COUNTS - Duration::from_millis(1)));
        assert!(!absent.has(&key, now + COUNTS));
        absent.end();
        assert!(absent.has(&key, now + 10 * COUNTS), "nobody knows better");
        absent.begin();
        assert!(!absent.has(&key, now));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (absent, now) = (Absent::default(), Instant::now());
        for n in 0..3 * MOST {
            absent.insert(&format!("/{n}").into(), now);
            assert!(absent.keys().since.len() <= MOST);
        }
        assert!(absent.has(&format!("/{}", 3 * MOST - 1), now));
    }
}
