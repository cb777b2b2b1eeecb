//! What a peer may make us do for nothing (RFC 9113 §10.5). Work that carries a tunnel's bytes
//! is free, however small the packets; everything else draws on an allowance that refills.

use std::time::Instant;

use super::{Code, Failure};

/// How many WINDOW_UPDATEs may be free at once, whatever was sent before.
const MOST_UPDATES: u32 = 1 << 16;
/// So many bytes of DATA make one more WINDOW_UPDATE reasonable, beyond two for each frame.
const BYTES_PER_UPDATE: usize = 1024;
/// What a refused request costs.
const REFUSAL: u32 = 2;

/// How much idle work a peer may cause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FloodLimits {
    /// At once.
    pub burst: u32,
    /// For ever, per second.
    pub per_second: u32,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self { burst: 4_000, per_second: 400 }
    }
}

/// The allowance of one connection.
#[derive(Debug)]
pub(super) struct Budget {
    limits: FloodLimits,
    left: u32,
    filled: Instant,
    /// WINDOW_UPDATEs that our own DATA and streams have earned the peer.
    updates: u32,
    /// PINGs and SETTINGS of ours that the peer has not acknowledged.
    pings: u32,
    settings: u32,
    /// Requests refused since the last one was paid for.
    refused: u32,
}

impl Budget {
    /// Our first SETTINGS are on their way.
    pub(super) fn new(limits: FloodLimits, now: Instant) -> Self {
        let left = limits.burst;
        Self { limits, left, filled: now, updates: 0, pings: 0, settings: 1, refused: 0 }
    }

    /// DATA of ours: its reader gives credit for it, on the stream and on the connection.
    pub(super) fn sent(&mut self, bytes: usize) {
        let earned = 2 + u32::try_from(bytes / BYTES_PER_UPDATE).unwrap_or(MOST_UPDATES);
        self.updates = self.updates.saturating_add(earned).min(MOST_UPDATES);
    }

    /// A stream: its reader may widen its window.
    pub(super) fn opened(&mut self) {
        self.sent(0);
    }

    /// A PING of ours.
    pub(super) fn pinged(&mut self) {
        self.pings = self.pings.saturating_add(1);
    }

    /// A request that we refuse; [`Budget::request`] has it paid for.
    pub(super) fn refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// A WINDOW_UPDATE came.
    pub(super) fn update(&mut self, now: Instant) -> Result<(), Failure> {
        match self.updates.checked_sub(1) {
            Some(left) => self.updates = left,
            None => self.pay(1, "WINDOW_UPDATE flood", now)?,
        }
        Ok(())
    }

    /// An acknowledgement of a PING came.
    pub(super) fn pong(&mut self, now: Instant) -> Result<(), Failure> {
        match self.pings.checked_sub(1) {
            Some(left) => self.pings = left,
            None => self.pay(1, "flood of PING acknowledgements", now)?,
        }
        Ok(())
    }

    /// An acknowledgement of SETTINGS came.
    pub(super) fn settings_ack(&mut self, now: Instant) -> Result<(), Failure> {
        match self.settings.checked_sub(1) {
            Some(left) => self.settings = left,
            None => self.pay(1, "flood of SETTINGS acknowledgements", now)?,
        }
        Ok(())
    }

    /// A request came: those before it that were refused are paid for.
    pub(super) fn request(&mut self, now: Instant) -> Result<(), Failure> {
        let refused = std::mem::take(&mut self.refused);
        self.pay(refused.saturating_mul(REFUSAL), "flood of requests that are refused", now)
    }

    /// Pays for something, or says that the peer must be cut off.
    pub(super) fn pay(
        &mut self,
        cost: u32,
        why: &'static str,
        now: Instant,
    ) -> Result<(), Failure> {
        if self.left < cost {
            let passed = now.saturating_duration_since(self.filled);
            let refill = passed.as_secs_f64() * f64::from(self.limits.per_second);
            if refill >= 1.0 {
                let refill = refill.min(f64::from(self.limits.burst)) as u32;
                self.left = (self.left + refill).min(self.limits.burst);
                self.filled = now;
            }
        }
        let calm = Failure::new(Code::ENHANCE_YOUR_CALM, why);
        self.left = self.left.checked_sub(cost).ok_or(calm)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many a peer is let in one moment.
    fn borne(budget: &mut Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.pay(1, "flood", now).is_ok()).count() as u32
    }

    #[test]
    fn what_was_used_up_comes_back_at_its_rate_and_no_further_than_it_was() {
        let (limits, begun) = (FloodLimits { burst: 100, per_second: 10 }, Instant::now());
        let mut budget = Budget::new(limits, begun);
        assert_eq!(borne(&mut budget, begun), 100);
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(borne(&mut budget, after(3)), 30);
        assert_eq!(borne(&mut budget, after(3)), 0);
        assert_eq!(borne(&mut budget, after(10_000)), 100);
        assert!(budget.pay(101, "flood", after(20_000)).is_err());
        assert_eq!(borne(&mut budget, after(20_000)), 100, "what was refused cost nothing");
    }

    /// Each is good for one, and what our own DATA earned is bounded.
    #[test]
    fn answers_are_free_as_often_as_they_were_asked_for() {
        let now = Instant::now();
        let mut budget = Budget::new(FloodLimits { burst: 0, per_second: 0 }, now);
        assert!(budget.settings_ack(now).is_ok() && budget.settings_ack(now).is_err());
        assert!(budget.pong(now).is_err());
        budget.pinged();
        assert!(budget.pong(now).is_ok() && budget.pong(now).is_err());
        assert!(budget.update(now).is_err());
        budget.sent(10 * BYTES_PER_UPDATE);
        assert_eq!((0..100).take_while(|_| budget.update(now).is_ok()).count(), 12);
        (0..1_000).for_each(|_| budget.sent(1 << 20));
        let free = (0..).take_while(|_| budget.update(now).is_ok()).count();
        assert_eq!(free, MOST_UPDATES as usize);
        budget.refused();
        assert!(budget.request(now).is_err() && budget.request(now).is_ok());
    }
}
