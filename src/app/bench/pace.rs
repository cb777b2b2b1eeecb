//! When the next operation is due.
//!
//! In an open loop operations are due at a fixed rate, whether or not the ones before are
//! done: their latency counts from then, so a target that stalls is charged for all who would
//! have come meanwhile (no coordinated omission). A timerfd keeps the time, as the runtime's
//! own timers are too coarse.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// Says when operations are due.
pub(super) enum Pace {
    /// As soon as the one before is done.
    Closed,
    /// At a fixed rate.
    Open {
        /// A timerfd, read as what the runtime knows how to poll: it says eight bytes at a time
        /// how often it has expired.
        timer: Receiver,
        /// When the first was due.
        first: Instant,
        every: Duration,
        /// How many have begun, and how many are due.
        begun: u32,
        due: u32,
    },
}

impl Pace {
    /// One of `of` who share `rate` (per second); `which` of them begins a little later.
    pub(super) fn new(rate: Option<f64>, which: usize, of: usize) -> io::Result<Self> {
        let Some(rate) = rate else { return Ok(Self::Closed) };
        let every = Duration::from_secs_f64(of as f64 / rate);
        let after = Duration::from_secs_f64((which + 1) as f64 / rate);
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let times = (TimeSpec::from(after), TimeSpec::from(every));
        let first = Instant::now() + after;
        timer.set(Expiration::IntervalDelayed(times.0, times.1), TimerSetTimeFlags::empty())?;
        let timer = Receiver::from_owned_fd_unchecked(OwnedFd::from(timer))?;
        Ok(Self::Open { timer, first, every, begun: 0, due: 0 })
    }

    /// Waits until the next operation is due, and says since when it is. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Instant> {
        let Self::Open { timer, first, every, begun, due } = self else {
            return Ok(Instant::now());
        };
        while begun >= due {
            let expired = timer.read_u64_le().await?;
            *due = due.saturating_add(u32::try_from(expired.to_le()).unwrap_or(u32::MAX));
        }
        let since = *first + *every * *begun;
        *begun += 1;
        Ok(since)
    }

    /// How many were due from `begin` to `end` and have not begun: what was due first begins first.
    pub(super) fn unsent(&self, begin: Instant, end: Instant) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open { first, every, begun, .. } => {
                let due = |at: Instant| {
                    let passed = at.saturating_duration_since(*first).as_secs_f64();
                    (passed / every.as_secs_f64()) as u64
                };
                due(end).saturating_sub(due(begin).max(u64::from(*begun)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_late_keeps_its_place_in_the_plan() {
        let mut pace = Pace::new(Some(1000.0), 0, 2).unwrap();
        let first = pace.next().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for n in 1..8 {
            let due = pace.next().await.unwrap();
            assert_eq!(due - first, Duration::from_millis(2) * n, "two share a rate of 1000");
        }
        let later = Instant::now() + Duration::from_millis(20);
        assert!(pace.unsent(first, later) >= 10);
        // What was due in the warm-up is not counted, whether or not it has begun.
        let measured = pace.unsent(later, later + Duration::from_secs(2));
        assert!((999..=1001).contains(&measured), "{measured}");
        let mut closed = Pace::new(None, 0, 1).unwrap();
        let before = Instant::now();
        assert!(closed.next().await.unwrap() >= before);
        assert_eq!(closed.unsent(before, Instant::now()), 0);
    }
}
