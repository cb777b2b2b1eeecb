//! What an accept loop does when an accept fails, the same for all listeners: descriptors or memory
//! are short, so it waits, longer each time, and says so now and then.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often one listener's failures are logged, however many workers accept on it.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

static FAILURES: Mutex<Option<FailureLog>> = Mutex::new(None);

/// How one accept loop waits after failures.
#[derive(Debug)]
pub struct AcceptBackoff {
    listener: String,
    pause: Duration,
    longest: Duration,
}

impl AcceptBackoff {
    /// Of a loop that accepts on `listener`, as the log is to name it.
    #[must_use]
    pub fn new(listener: impl Into<String>) -> Self {
        Self { listener: listener.into(), pause: FIRST_PAUSE, longest: LONGEST_PAUSE }
    }

    /// Limits the pause: for listeners whose callers wait only briefly, as probes do.
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// An accept succeeded: the next failure waits shortly again.
    pub fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Waits after an accept that failed, twice as long as the last time up to a second. The first
    /// failure is logged at once, then the number of failures every ten seconds.
    ///
    /// # Cancel safety
    /// Dropping the future ends the pause; nothing is lost.
    pub async fn failed(&mut self, error: &io::Error) {
        sleep(self.note(error)).await;
    }

    /// Counts and logs a failure as [`AcceptBackoff::failed`] does, without waiting. Returns how long
    /// nothing should be accepted; the caller may serve others meanwhile.
    #[must_use]
    pub fn note(&mut self, error: &io::Error) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        let due = {
            let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
            let log = failures.get_or_insert_default();
            log.count(&self.listener, Instant::now())
        };
        if let Some(failures) = due {
            let listener = self.listener.as_str();
            tracing::warn!(listener, %error, failures, "accept failed; trying again after a pause");
        }
        pause
    }
}

/// Whether an accept failed because of the connection that was to be accepted, which is gone: the
/// next one is not concerned.
#[must_use]
pub fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted)
}

/// The failures of each listener: when they were logged last, and how many there were since.
#[derive(Debug, Default)]
struct FailureLog(HashMap<String, (Instant, u64)>);

impl FailureLog {
    /// Counts a failure; the number to log if a line is due, including this one.
    fn count(&mut self, listener: &str, now: Instant) -> Option<u64> {
        if let Some((logged, failures)) = self.0.get_mut(listener) {
            *failures += 1;
            if now.saturating_duration_since(*logged) < LOGGED_EVERY {
                return None;
            }
            let counted = std::mem::take(failures);
            *logged = now;
            return Some(counted);
        }
        // Listeners come and go with their services: what was logged long ago is forgotten.
        self.0.retain(|_, (logged, _)| now.saturating_duration_since(*logged) < LOGGED_EVERY);
        self.0.insert(listener.to_owned(), (now, 0));
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_failures_is_one_line_in_ten_seconds_for_each_listener() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(log.count("web", at(0)), Some(1), "the first at once");
        for tenth in 1..100 {
            assert_eq!(log.count("web", at(100 * tenth)), None);
        }
        assert_eq!(log.count("db", at(9_990)), Some(1), "of another at once too");
        assert_eq!(log.count("web", at(10_000)), Some(100), "and those in between");
        assert_eq!(log.count("web", at(10_001)), None);
        assert_eq!(log.count("other", at(60_000)), Some(1));
        assert_eq!(log.0.len(), 1, "who has not failed for long is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_is_longer_up_to_a_second_until_an_accept_succeeds() {
        let error = io::Error::from(nix::errno::Errno::EMFILE);
        let mut backoff = AcceptBackoff::new("a test");
        let mut pauses = Vec::new();
        for n in 0..12 {
            if n == 10 {
                backoff.succeeded();
            }
            let before = tokio::time::Instant::now();
            backoff.failed(&error).await;
            pauses.push(before.elapsed().as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 5, 10]);
    }
}
