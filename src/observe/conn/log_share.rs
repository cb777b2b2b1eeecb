//! How many access-log lines of failed connections one peer may cause: a peer that is refused
//! without an end must not fill a disk. Metrics count every connection.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::net::CloseReason;

/// Lines at once …
const BURST: f64 = 1_000.0;
/// … and for ever, per second.
const PER_SECOND: f64 = 20.0;
/// Peers and reasons that are told apart; further ones share one allowance for each reason.
const MOST: usize = 4_096;

/// The lines that each peer has left, by reason.
#[derive(Debug, Default)]
pub(super) struct LogShares(Mutex<HashMap<(CloseReason, IpAddr), Share>>);

#[derive(Debug)]
struct Share {
    lines: f64,
    filled: Instant,
    left_out: u64,
}

impl LogShares {
    /// Whether a failed connection gets its line: then how many of its kind were left out before
    /// it, else `None`.
    pub(super) fn take(&self, reason: CloseReason, peer: IpAddr, now: Instant) -> Option<u64> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (reason, peer);
        if shares.len() >= MOST && !shares.contains_key(&key) {
            shares.retain(|_, share| share.left_out > 0 || share.refill(now) < BURST);
            if shares.len() >= MOST {
                key.1 = Ipv6Addr::UNSPECIFIED.into();
            }
        }
        let full = Share { lines: BURST, filled: now, left_out: 0 };
        let share = shares.entry(key).or_insert(full);
        if share.refill(now) < 1.0 {
            share.left_out += 1;
            return None;
        }
        share.lines -= 1.0;
        Some(std::mem::take(&mut share.left_out))
    }
}

impl Share {
    fn refill(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.lines = (self.lines + passed * PER_SECOND).min(BURST);
        self.filled = now;
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REFUSED: CloseReason = CloseReason::PolicyDenied;

    #[test]
    fn a_peer_that_is_refused_without_an_end_gets_its_share_of_lines_and_no_more() {
        let (shares, start) = (LogShares::default(), Instant::now());
        let flooder: IpAddr = "10.0.0.1".parse().unwrap();
        let lines =
            |at| (0..10_000).filter(|_| shares.take(REFUSED, flooder, at).is_some()).count();
        assert_eq!(lines(start), 1_000);
        // What was left out is said with the next line.
        let later = start + Duration::from_secs(1);
        assert_eq!(shares.take(REFUSED, flooder, later), Some(9_000));
        assert_eq!(shares.take(REFUSED, flooder, later), Some(0));
        // Nobody else's lines are missing, and no other reason's.
        assert_eq!(shares.take(REFUSED, "10.0.0.2".parse().unwrap(), later), Some(0));
        assert_eq!(shares.take(CloseReason::Internal, flooder, later), Some(0));
    }

    /// Seconds each.
    mod slow {
        use super::*;

        #[test]
        fn peers_without_number_do_not_fill_the_memory() {
            let (shares, now) = (LogShares::default(), Instant::now());
            for n in 0..20_000_u32 {
                let peer = std::net::Ipv4Addr::from(n + 1).into();
                shares.take(REFUSED, peer, now);
            }
            assert!(shares.0.lock().unwrap().len() <= MOST + 1);
        }
    }
}
