//! Who calls a pod, and how often: a caller that was cut off for a flood is not taken again for a
//! while, so that it cannot have another handshake, and another allowance, for each one it used up.
//!
//! Counted is by identity; before there is one, by source address. Time comes in.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{identity::SpiffeId, lifecycle::source};

/// What one caller may have of one pod.
#[derive(Clone, Copy, Debug)]
pub struct CallerLimits {
    /// New tunnels per second; four times as many at once.
    pub new_tunnels: u32,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self { new_tunnels: 1_000 }
    }
}

/// The callers of one pod.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    limits: CallerLimits,
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    sources: CutOff<IpAddr>,
    identities: CutOff<SpiffeId>,
    rates: HashMap<SpiffeId, Rate>,
}

/// A caller with a tunnel.
#[derive(Debug)]
pub struct Caller {
    callers: Callers,
    id: SpiffeId,
    source: IpAddr,
}

impl Callers {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(limits: CallerLimits) -> Self {
        Self { limits, books: Arc::default() }
    }

    /// Why no connection is taken from there now, not even for a handshake.
    #[must_use]
    pub fn unwelcome(&self, from: IpAddr, now: Instant) -> Option<String> {
        let left = self.lock().sources.left(&source(from), now)?;
        Some(flooded("this address", left))
    }

    /// Takes a tunnel of `id`, whose handshake is done.
    ///
    /// # Errors
    /// Why it is closed instead.
    pub fn enter(&self, id: &SpiffeId, from: IpAddr, now: Instant) -> Result<Caller, String> {
        let mut books = self.lock();
        if let Some(left) = books.identities.left(id, now) {
            return Err(flooded("this caller", left));
        }
        let caller = Caller { callers: self.clone(), id: id.clone(), source: source(from) };
        if !books.may_open(id, self.limits.new_tunnels, now) {
            drop(books);
            caller.cut_off(now);
            return Err(format!(
                "this caller opens more than {} tunnels a second",
                self.limits.new_tunnels
            ));
        }
        Ok(caller)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// It flooded its tunnel: neither it nor its address gets another one for a while.
    pub fn cut_off(&self, now: Instant) {
        let mut books = self.callers.lock();
        books.sources.add(self.source, now);
        books.identities.add(self.id.clone(), now);
    }
}

fn flooded(who: &str, left: Duration) -> String {
    let left = left.as_secs_f64().ceil();
    format!("{who} was cut off for a flood, and is taken again in {left} s")
}

impl Books {
    /// Whether `id` may open a tunnel now, at most `per_second`.
    fn may_open(&mut self, id: &SpiffeId, per_second: u32, now: Instant) -> bool {
        let most = per_second.saturating_mul(BURST);
        if self.rates.len() >= MOST_KNOWN && !self.rates.contains_key(id) {
            self.rates.retain(|_, rate| {
                rate.fill(per_second, most, now);
                rate.left < most
            });
            // So many in so short a time: whose count begins anew is no matter.
            if self.rates.len() >= MOST_KNOWN
                && let Some(any) = self.rates.keys().next().cloned()
            {
                self.rates.remove(&any);
            }
        }
        let fresh = Rate { left: most, filled: now };
        let rate = self.rates.entry(id.clone()).or_insert(fresh);
        rate.fill(per_second, most, now);
        match rate.left.checked_sub(1) {
            Some(left) => rate.left = left,
            None => return false,
        }
        true
    }
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    left: u32,
    filled: Instant,
}

impl Rate {
    fn fill(&mut self, per_second: u32, most: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let refill = (passed * f64::from(per_second)).min(f64::from(most)) as u32;
        if refill > 0 {
            self.left = self.left.saturating_add(refill).min(most);
            self.filled = now;
        }
    }
}

/// Who was cut off, and until when.
#[derive(Debug)]
struct CutOff<K>(HashMap<K, Pause>);

#[derive(Clone, Copy, Debug)]
struct Pause {
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
    fn left(&self, whom: &K, now: Instant) -> Option<Duration> {
        let left = self.0.get(whom)?.until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn add(&mut self, whom: K, now: Instant) {
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
const FORGIVEN: Duration = Duration::from_secs(120);
/// So many seconds' worth of new tunnels may come at once.
const BURST: u32 = 4;
/// How many callers are remembered.
const MOST_KNOWN: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn who_floods_waits_longer_each_time_and_is_forgiven() {
        let (callers, mut now) = (Callers::default(), Instant::now());
        let second = Duration::from_secs(1);
        let web = callers.enter(&id("web"), HERE, now).unwrap();
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            web.cut_off(now);
            web.cut_off(now); // another tunnel, cut off together with the first
            let pause = pause * second;
            for soon in [Duration::ZERO, pause - second / 10] {
                assert!(callers.unwelcome(HERE, now + soon).is_some());
                assert!(callers.enter(&id("web"), THERE, now + soon).is_err());
            }
            assert!(callers.unwelcome(THERE, now).is_none());
            assert!(callers.enter(&id("cart"), THERE, now).is_ok());
            now += pause;
            assert!(callers.unwelcome(HERE, now).is_none());
            assert!(callers.enter(&id("web"), HERE, now).is_ok());
        }
        now += FORGIVEN;
        web.cut_off(now);
        let why = callers.unwelcome(HERE, now).unwrap();
        assert_eq!(why, "this address was cut off for a flood, and is taken again in 1 s");
        assert!(callers.unwelcome(HERE, now + second).is_none());
    }

    #[test]
    fn new_tunnels_come_at_a_rate() {
        let (callers, now) = (Callers::new(CallerLimits { new_tunnels: 10 }), Instant::now());
        let mut taken = 0;
        while callers.enter(&id("web"), HERE, now).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 40);
        assert!(callers.unwelcome(HERE, now).is_some(), "its handshakes are spared too");
        assert!(callers.enter(&id("cart"), THERE, now).is_ok());
        let later = now + Duration::from_secs(2);
        assert!((0..20).all(|_| callers.enter(&id("web"), HERE, later).is_ok()));
        assert!(callers.enter(&id("web"), HERE, later).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (callers, now) = (Callers::default(), Instant::now());
        for n in 0..2 * MOST_KNOWN as u32 {
            let caller = callers.enter(&id(&n.to_string()), IpAddr::from(n.to_be_bytes()), now);
            caller.unwrap().cut_off(now + Duration::from_millis(n.into()));
        }
        let books = callers.lock();
        let known = [books.sources.0.len(), books.identities.0.len(), books.rates.len()];
        assert!(known.iter().all(|known| *known <= MOST_KNOWN), "{known:?}");
        assert!(books.sources.0.contains_key(&IpAddr::from(8_191_u32.to_be_bytes())));
    }
}
