//! When a silent peer is asked whether it is there, and when it is given up. Time in which this
//! process did not run (a snapshot, a migration, a lid) is not the peer's silence.

use std::time::{Duration, Instant};

/// A peer that was silent for so long is asked whether it is there …
const PING_AFTER: Duration = Duration::from_secs(10);
/// … and given up when it has not answered for so long.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// How often is looked meanwhile: what a look is later than this did not run, and does not count.
const LOOK: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Look again then.
    Wait(Instant),
    /// Send a PING, and look again then.
    Ask(Instant),
    /// It is gone.
    GiveUp,
}

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Since what was last heard the peer has been asked.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    heard: Instant,
    looked: Instant,
    /// How long an answer has been waited for, by looks that were in time.
    waited: Duration,
}

impl Patience {
    pub(super) fn look(&mut self, now: Instant, heard: Instant) -> Next {
        let quiet = now.saturating_duration_since(heard);
        if quiet < PING_AFTER {
            self.asked = None;
            return Next::Wait(heard + PING_AFTER);
        }
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.heard == heard) else {
            self.asked = Some(Asked { heard, looked: now, waited: Duration::ZERO });
            return Next::Ask(now + LOOK);
        };
        let passed = now.saturating_duration_since(asked.looked);
        asked.looked = now;
        asked.waited += passed.min(LOOK);
        if passed > PING_AFTER {
            // What was on its way may be lost: a fresh one, with all the time that it has.
            asked.waited = Duration::ZERO;
            return Next::Ask(now + LOOK);
        }
        if asked.waited >= ANSWER { Next::GiveUp } else { Next::Wait(now + LOOK) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks as asked for until told something else than to wait; when that was, and what.
    fn waits(patience: &mut Patience, from: Instant, heard: Instant) -> (Duration, Next) {
        let mut now = from;
        loop {
            match patience.look(now, heard) {
                Next::Wait(until) => now = until,
                next => return (now - from, next),
            }
        }
    }

    #[test]
    fn a_silent_peer_is_asked_and_given_up() {
        let (mut patience, heard) = (Patience::default(), Instant::now());
        let (after, next) = waits(&mut patience, heard, heard);
        assert!(after == PING_AFTER && matches!(next, Next::Ask(_)), "{after:?} {next:?}");
        let (after, next) = waits(&mut patience, heard + PING_AFTER + LOOK, heard);
        assert_eq!((after + LOOK, next), (ANSWER, Next::GiveUp));
    }

    /// However often it stops, and however short each time: only a look's length of it counts.
    #[test]
    fn many_short_pauses_of_ours_are_not_the_peers_silence() {
        let (mut patience, heard) = (Patience::default(), Instant::now());
        let mut now = heard + PING_AFTER;
        assert_eq!(patience.look(now, heard), Next::Ask(now + LOOK));
        for _ in 1..ANSWER.as_secs() {
            now += PING_AFTER - LOOK;
            assert_eq!(patience.look(now, heard), Next::Wait(now + LOOK), "{:?}", now - heard);
        }
        assert_eq!(patience.look(now + LOOK, heard), Next::GiveUp);
    }

    #[test]
    fn a_pause_of_ours_is_not_the_peers_silence() {
        let (mut patience, heard) = (Patience::default(), Instant::now());
        let resumed = heard + Duration::from_secs(3600);
        assert_eq!(patience.look(resumed, heard), Next::Ask(resumed + LOOK), "nobody had asked");
        // Again, with a PING on its way.
        let again = resumed + Duration::from_secs(3600);
        assert_eq!(patience.look(again, heard), Next::Ask(again + LOOK), "a fresh one");
        let (after, next) = waits(&mut patience, again + LOOK, heard);
        assert_eq!((after + LOOK, next), (ANSWER, Next::GiveUp));
        let mut patience = Patience::default();
        assert_eq!(patience.look(again, again), Next::Wait(again + PING_AFTER), "it answered");
    }
}
