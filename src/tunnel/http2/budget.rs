//! What a peer may make us do for nothing (RFC 9113 §10.5). Work that carries a tunnel's bytes
//! is free, however small the packets; everything else draws on an allowance that refills.

use std::time::Instant;

use super::{Code, Failure};

/// How much idle work a peer may cause.
#[derive(Clone, Copy, Debug)]
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
}

impl Budget {
    pub(super) fn new(limits: FloodLimits, now: Instant) -> Self {
        Self { limits, left: limits.burst, filled: now }
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
