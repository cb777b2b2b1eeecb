//! Endpoints that fail one connection after another are left out for a while, longer each time. What
//! is here has no clock: whoever reports or asks says what time it is. That no service loses more
//! than half of its endpoints by it is seen to where one is chosen ([`crate::mesh::pick`]).
//!
//! Each pod has its own: what a NetworkPolicy keeps from one pod is there for another, and nobody
//! takes an endpoint from anybody else by failing to reach it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use crate::mesh::{Ejected, EndpointAddress};

/// So many failures in a row, and the endpoint is left out …
const IN_A_ROW: u32 = 3;
/// … for so long the first time, twice as long each time it fails right after, and at most …
const FIRST: Duration = Duration::from_secs(10);
/// … for so long.
const LONGEST: Duration = Duration::from_secs(300);
/// What is older than this counts for nothing.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How many endpoints are kept in mind.
const MOST: usize = 256;

/// How the endpoints do that were called.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    state: Mutex<EjectionState>,
    /// Whether there is anything in it.
    is_any_failing: AtomicBool,
}

/// An endpoint that is left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EjectedEndpoint {
    /// Where it is reached.
    pub address: EndpointAddress,
    /// How many connections to it have failed in a row.
    pub failures: u32,
    /// For how much longer it is left out.
    pub left: Duration,
}

#[derive(Debug, Default)]
struct EjectionState {
    failing: HashMap<EndpointAddress, Failing>,
    ejected: Arc<Ejected>,
    /// Until when that is right, if it is not for ever.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Failing {
    failures: u32,
    last: Instant,
    until: Option<Instant>,
    waits: ExponentialBackoff,
}

impl Failing {
    fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

impl EndpointHealth {
    /// Records that a connection to this endpoint was not established. Returns for how long it is
    /// left out from now on, if it is by this.
    ///
    /// One that was begun before the last failure that counted counts for nothing: several wait for
    /// one dial, and what ends one of them may end them all.
    pub fn failed(
        &self,
        endpoint: EndpointAddress,
        begun: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let mut state = self.state();
        if !state.failing.contains_key(&endpoint) && !state.has_room(now) {
            return None;
        }
        let failing = state.failing.entry(endpoint).or_insert_with(|| Failing::new(now));
        if now.saturating_duration_since(failing.last) >= FORGOTTEN {
            *failing = Failing::new(now);
        }
        if failing.failures > 0 && begun < failing.last {
            return None;
        }
        (failing.failures, failing.last) = (failing.failures.saturating_add(1), now);
        if failing.failures < IN_A_ROW || failing.is_ejected(now) {
            self.is_any_failing.store(true, Relaxed);
            return None;
        }
        let wait = failing.waits.next().unwrap_or(LONGEST);
        failing.until = Some(now + wait);
        state.look(now);
        self.is_any_failing.store(true, Relaxed);
        Some(wait)
    }

    /// Records that a connection to this endpoint was established. Returns whether the endpoint had
    /// been ejected for this pod.
    pub fn succeeded(&self, endpoint: &EndpointAddress, now: Instant) -> bool {
        if !self.is_any_failing.load(Relaxed) {
            return false;
        }
        let mut state = self.state();
        let Some(failing) = state.failing.remove(endpoint) else { return false };
        state.look(now);
        self.is_any_failing.store(!state.failing.is_empty(), Relaxed);
        failing.until.is_some()
    }

    /// Who is left out.
    #[must_use]
    pub fn ejected(&self, now: Instant) -> Arc<Ejected> {
        if !self.is_any_failing.load(Relaxed) {
            return Arc::default();
        }
        let mut state = self.state();
        if state.until.is_some_and(|until| until <= now) {
            state.look(now);
        }
        Arc::clone(&state.ejected)
    }

    /// The endpoints that are ejected at `now`, as people read them, the worst first.
    #[must_use]
    pub fn ejected_endpoints(&self, now: Instant) -> Vec<EjectedEndpoint> {
        if !self.is_any_failing.load(Relaxed) {
            return Vec::new();
        }
        let state = self.state();
        let mut all: Vec<_> = state.failing.iter().filter(|(_, f)| f.is_ejected(now)).collect();
        all.sort_by_key(|(address, failing)| failing.rank(address));
        let shown = |(address, failing): (&EndpointAddress, &Failing)| EjectedEndpoint {
            address: address.clone(),
            failures: failing.failures,
            left: failing.until.map_or(Duration::ZERO, |until| until - now),
        };
        all.into_iter().map(shown).collect()
    }

    fn state(&self) -> MutexGuard<'_, EjectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failing {
    fn new(now: Instant) -> Self {
        let waits = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LONGEST);
        let waits = waits.without_max_times().build();
        Self { failures: 0, last: now, until: None, waits }
    }

    /// Who is left out for longer is the worse.
    fn rank<'a>(
        &self,
        address: &'a EndpointAddress,
    ) -> (std::cmp::Reverse<Option<Instant>>, &'a EndpointAddress) {
        (std::cmp::Reverse(self.until), address)
    }
}

impl EjectionState {
    /// Whether one more may be kept in mind; the one that failed longest ago makes room, unless it
    /// is left out.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.failing.len() < MOST {
            return true;
        }
        let idle = self.failing.iter().filter(|(_, failing)| !failing.is_ejected(now));
        let oldest = idle.min_by_key(|(_, failing)| failing.last);
        match oldest.map(|(address, _)| address.clone()) {
            Some(address) => self.failing.remove(&address).is_some(),
            None => false,
        }
    }

    /// Finds out who is left out now, and until when that is so.
    fn look(&mut self, now: Instant) {
        let mut out: Vec<_> = self.failing.iter().filter(|(_, f)| f.is_ejected(now)).collect();
        out.sort_by_key(|(address, failing)| failing.rank(address));
        self.until = out.iter().filter_map(|(_, failing)| failing.until).min();
        let ranked = out.iter().enumerate().map(|(rank, (address, _))| ((*address).clone(), rank));
        self.ejected = Arc::new(ranked.collect());
    }
}

#[cfg(test)]
mod tests; // src/proxy/egress/ejection/tests.rs
