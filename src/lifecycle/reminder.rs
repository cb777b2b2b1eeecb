//! What is to be said again while it lasts: at once when it is news, then once a day.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(86_400);

/// Remembers what was said last, and when.
#[derive(Debug)]
pub struct Reminder<T>(Option<(T, Instant)>);

impl<T> Default for Reminder<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone + Default + PartialEq> Reminder<T> {
    /// Whether to log `what` now: if it changed, or after a day. The default value means "nothing"
    /// and is never logged.
    pub fn due(&mut self, what: &T, now: Instant) -> bool {
        if *what == T::default() {
            self.0 = None;
            return false;
        }
        let said = |(before, at): &(T, Instant)| {
            before == what && now.saturating_duration_since(*at) < EVERY
        };
        if self.0.as_ref().is_some_and(said) {
            return false;
        }
        self.0 = Some((what.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_at_once_and_the_same_once_a_day() {
        let (mut reminder, start) = (Reminder::default(), Instant::now());
        let at = |hours: u32| start + Duration::from_secs(3600) * hours;
        let steps = [
            (0, 0, false),
            (1, 0, true),
            (1, 1, false),
            (1, 23, false),
            (1, 24, true),
            (2, 25, true),
            (2, 26, false),
            (0, 27, false),
            (2, 28, true),
            (2, 51, false),
            (2, 52, true),
        ];
        for (what, hours, due) in steps {
            assert_eq!(reminder.due(&what, at(hours)), due, "{what} after {hours} h");
        }
    }
}
