//! Where a service connects to: in order or in turn, the next one when one fails, and one that
//! has failed is left out for a while. If all are left out, all are tried: that is better than
//! nobody. Whether they are well is asked in [`super::health`].

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    net::{Address, CloseReason},
    observe::metrics::Metrics,
};

/// How long a target that has failed is left out; doubled with each failure in a row.
const LEFT_OUT: Duration = Duration::from_secs(5);
/// The longest.
const LEFT_OUT_AT_MOST: Duration = Duration::from_secs(60);
/// The last attempt ends this long before all must have ended, to be counted.
const SPARE: Duration = Duration::from_millis(10);

/// Which target is tried first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// The first that is well; the others are for when it is not.
    #[default]
    First,
    /// Each in turn.
    RoundRobin,
}

/// What is looked at of a target before one is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// Nothing speaks against it.
    Up,
    /// A connection to it has failed: it is left out for a while.
    LeftOut,
    /// Its last check failed.
    Unhealthy,
}

/// A target that a connection tries in its turn, and why not before others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Choice {
    /// Its place in the configuration.
    pub(super) target: usize,
    /// What was known of it.
    pub(super) standing: Standing,
}

/// Decides in which order a connection tries the targets of which this is known: each once,
/// beginning with the one at `first`, those that are up before the others.
pub(super) fn decide(known: impl Iterator<Item = Standing>, first: usize) -> Vec<Choice> {
    let choice = |(target, standing)| Choice { target, standing };
    let mut order: Vec<Choice> = known.enumerate().map(choice).collect();
    let first = first % order.len().max(1);
    order.rotate_left(first);
    order.sort_by_key(|choice| choice.standing != Standing::Up);
    order
}

/// One target.
#[derive(Debug)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// Its address as metrics call it.
    name: String,
    failures: AtomicU32,
    /// Milliseconds after [`Targets::began`].
    out_until: AtomicU64,
    unwell: AtomicBool,
}

/// All targets of one service.
#[derive(Debug)]
pub struct Targets {
    service: String,
    all: Vec<Target>,
    balance: Balance,
    turn: AtomicUsize,
    began: Instant,
    metrics: Arc<Metrics>,
}

impl Targets {
    pub(super) fn new(
        service: &str,
        addresses: &[Address],
        balance: Balance,
        metrics: Arc<Metrics>,
    ) -> Self {
        let target = |address: &Address| Target {
            address: address.clone(),
            name: address.to_string(),
            failures: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
        };
        let targets = Self {
            service: service.to_owned(),
            all: addresses.iter().map(target).collect(),
            balance,
            turn: AtomicUsize::new(0),
            began: Instant::now(),
            metrics,
        };
        targets.all.iter().for_each(|target| targets.show(target));
        targets
    }

    /// In the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Target] {
        &self.all
    }

    fn standing(&self, target: &Target) -> Standing {
        match (target.unwell.load(Relaxed), target.out_until.load(Relaxed) > self.now()) {
            (true, _) => Standing::Unhealthy,
            (false, true) => Standing::LeftOut,
            (false, false) => Standing::Up,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The order for one connection.
    fn order(&self) -> Vec<Choice> {
        let first = match self.balance {
            Balance::First => 0,
            Balance::RoundRobin => self.turn.fetch_add(1, Relaxed),
        };
        decide(self.all.iter().map(|target| self.standing(target)), first)
    }

    /// Attempts for one connection, all of them within `deadline`.
    pub(super) fn tries(&self, deadline: Instant) -> Tries<'_> {
        let last = (CloseReason::ConnectFailure, Some("there is no target".into()));
        Tries { targets: self, order: self.order().into_iter(), deadline, last }
    }

    fn worked(&self, target: &Target) {
        self.count(target, "connected");
        if target.failures.swap(0, Relaxed) > 0 {
            target.out_until.store(0, Relaxed);
            tracing::info!(
                service = self.service,
                target = target.name,
                "target is reachable again"
            );
            self.show(target);
        }
    }

    fn failed(&self, target: &Target, why: &str) {
        self.count(target, "failed");
        let before = target.failures.fetch_add(1, Relaxed);
        let out = (LEFT_OUT * (1 << before.min(4))).min(LEFT_OUT_AT_MOST);
        let until = self.now() + u64::try_from(out.as_millis()).unwrap_or(u64::MAX);
        target.out_until.store(until, Relaxed);
        if before == 0 {
            let service = self.service.as_str();
            tracing::warn!(service, target = target.name, error = why, "target failed");
            self.show(target);
        }
    }

    /// What a check has found: `Err` says what is wrong.
    pub(super) fn checked(&self, target: &Target, found: Result<(), String>) {
        let was = target.unwell.swap(found.is_err(), Relaxed);
        let (service, name) = (self.service.as_str(), target.name.as_str());
        match found {
            // It is back. One that only callers find wanting (by its certificate) stays out.
            Ok(()) if was => {
                target.failures.store(0, Relaxed);
                target.out_until.store(0, Relaxed);
                tracing::info!(service, target = name, "target is healthy");
            }
            Ok(()) => {}
            Err(error) if !was => {
                tracing::warn!(service, target = name, error, "target is unhealthy")
            }
            Err(_) => {}
        }
        self.show(target);
    }

    fn show(&self, target: &Target) {
        let gauge =
            self.metrics.targets.up.with_label_values(&[self.service.as_str(), &target.name]);
        let up = !target.unwell.load(Relaxed) && target.failures.load(Relaxed) == 0;
        gauge.set(up.into());
    }

    fn count(&self, target: &Target, result: &str) {
        let labels = [self.service.as_str(), &target.name, result];
        self.metrics.targets.connects.with_label_values(&labels).inc();
    }
}

/// The attempts of one connection.
pub(super) struct Tries<'a> {
    targets: &'a Targets,
    order: std::vec::IntoIter<Choice>,
    deadline: Instant,
    last: (CloseReason, Option<String>),
}

impl<'a> Tries<'a> {
    /// The next target, and how long it may take: a share of what is left.
    pub(super) fn next(&mut self) -> Option<(&'a Target, Duration)> {
        let left = self.deadline.saturating_duration_since(Instant::now()).saturating_sub(SPARE);
        let share = left / u32::try_from(self.order.len()).unwrap_or(1).max(1);
        let Choice { target, standing } = self.order.next()?;
        let target = &self.targets.all[target];
        if standing != Standing::Up {
            let (service, target) = (self.targets.service.as_str(), target.name.as_str());
            tracing::debug!(service, target, ?standing, "trying a target that is not healthy");
        }
        Some((target, share))
    }

    /// Whether no other target is left.
    pub(super) fn is_over(&self) -> bool {
        self.order.len() == 0
    }

    pub(super) fn worked(&self, target: &Target) {
        self.targets.worked(target);
    }

    pub(super) fn failed(&mut self, target: &Target, reason: CloseReason, why: impl Display) {
        let why = why.to_string();
        self.targets.failed(target, &why);
        self.last = (reason, Some(why));
    }

    /// It took longer than `share`; the last one, longer than all of them may.
    pub(super) fn late(&mut self, target: &Target, share: Duration, all: Duration) {
        let why = match self.order.len() {
            0 => format!("cannot connect to {}: not ready after {all:?}", target.address),
            _ => format!("cannot connect to {}: not ready within {share:?}", target.address),
        };
        self.failed(target, CloseReason::ConnectTimeout, why);
    }

    /// Why the last of them failed.
    pub(super) fn outcome(self) -> (CloseReason, Option<String>) {
        self.last
    }
}

#[cfg(test)]
mod tests;
