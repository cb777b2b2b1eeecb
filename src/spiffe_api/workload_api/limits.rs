//! What one caller may take of the server: connections, calls at a time, calls per second, each
//! by process, and by pod or, outside the pods that this node carries, by user: root in one pod is
//! the same user as root in any other. Time comes in; beyond the limits a call is shed (Workload
//! Endpoint §6: Unavailable), so that one workload in a loop delays no other.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::entitled::Registrations;

/// How much one process, or one pod or user, may have.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Connections at a time.
    connections: u32,
    /// Calls and streams at a time.
    calls: u32,
    /// Calls per second for ever …
    per_second: f64,
    /// … and at once.
    burst: f64,
}

const PROCESS: Share = Share { connections: 64, calls: 64, per_second: 200.0, burst: 400.0 };
const ALL_OF_ONE: Share =
    Share { connections: 1024, calls: 1024, per_second: 1000.0, burst: 2000.0 };
/// Connections of all callers together, and of one pod or user.
pub(super) const CONNECTIONS: usize = 4096;
pub(super) const CONNECTIONS_OF_ONE: usize = 1024;
/// How many callers are remembered before those that are at rest are forgotten.
const REMEMBERED: usize = 1024;

/// Which limit was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Shed {
    #[error("too many connections of this {0}")]
    Connections(&'static str),
    #[error("too many calls at a time of this {0}")]
    Calls(&'static str),
    #[error("too many calls per second of this {0}")]
    Rate(&'static str),
}

#[derive(Debug)]
struct Use {
    connections: u32,
    calls: u32,
    tokens: f64,
    at: Instant,
}

#[derive(Debug, Default)]
struct CallerUsage {
    processes: HashMap<u32, Use>,
    owners: HashMap<CallerGroup, Use>,
}

/// Whose processes are counted together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum CallerGroup {
    /// A pod that this node carries, by its network namespace.
    Pod((u64, u64)),
    /// Of all others, this user.
    User(u32),
}

impl CallerGroup {
    pub(super) fn of(uid: u32, netns: Option<(u64, u64)>, known: Option<&Registrations>) -> Self {
        let is_carried = |netns: &(u64, u64)| {
            known.is_some_and(|known| known.pods.iter().any(|pod| pod.netns == *netns))
        };
        netns.filter(is_carried).map_or(Self::User(uid), Self::Pod)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pod(_) => "pod",
            Self::User(_) => "user",
        }
    }
}

/// The books of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct UsageLimits(Arc<Mutex<CallerUsage>>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum UseKind {
    Connection,
    Call,
}

/// A place of a caller's; free again when dropped.
#[derive(Debug)]
pub(super) struct UsagePlace {
    limits: UsageLimits,
    kind: UseKind,
    group: CallerGroup,
    pid: Option<u32>,
    /// Of a call: its connection is in use.
    busy: Option<Busy>,
}

/// How many calls a connection has.
#[derive(Clone, Debug)]
pub(super) struct Calls(watch::Sender<usize>);

/// One of them, until dropped.
#[derive(Debug)]
struct Busy(Calls);

impl Calls {
    pub(super) fn none() -> Self {
        Self(watch::Sender::new(0))
    }

    fn begin(&self) -> Busy {
        self.0.send_modify(|calls| *calls += 1);
        Busy(self.clone())
    }

    /// Waits until there was none for so long. A stream that waits for news is a call. Cancel safe.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let mut calls = self.0.subscribe();
        loop {
            let idle = calls.wait_for(|calls| *calls == 0).await.is_ok();
            if idle && tokio::time::timeout(limit, calls.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|calls| *calls = calls.saturating_sub(1));
    }
}

impl UsageLimits {
    /// A place for a connection.
    pub(super) fn connect(&self, group: CallerGroup, pid: Option<u32>) -> Result<UsagePlace, Shed> {
        self.take(UseKind::Connection, group, pid, Instant::now())
    }

    /// A place for a call of a connection, or for a stream as long as it lives.
    pub(super) fn call(
        &self,
        group: CallerGroup,
        pid: Option<u32>,
        of: &Calls,
    ) -> Result<UsagePlace, Shed> {
        let mut place = self.take(UseKind::Call, group, pid, Instant::now())?;
        place.busy = Some(of.begin());
        Ok(place)
    }

    fn take(
        &self,
        kind: UseKind,
        group: CallerGroup,
        pid: Option<u32>,
        now: Instant,
    ) -> Result<UsagePlace, Shed> {
        let mut usage = self.lock();
        let CallerUsage { processes, owners } = &mut *usage;
        let mut process = pid.map(|pid| entry(processes, pid, PROCESS, now));
        let owner = entry(owners, group, ALL_OF_ONE, now);
        // Both are asked before either is charged.
        if let Some(process) = &mut process {
            process.room(kind, PROCESS, "process", now)?;
        }
        owner.room(kind, ALL_OF_ONE, group.name(), now)?;
        for one in process.into_iter().chain([owner]) {
            match kind {
                UseKind::Connection => one.connections += 1,
                UseKind::Call => (one.calls, one.tokens) = (one.calls + 1, one.tokens - 1.0),
            }
        }
        Ok(UsagePlace { limits: self.clone(), kind, group, pid, busy: None })
    }

    fn lock(&self) -> MutexGuard<'_, CallerUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<K: Eq + Hash>(
    usage: &mut HashMap<K, Use>,
    key: K,
    share: Share,
    now: Instant,
) -> &mut Use {
    if usage.len() >= REMEMBERED && !usage.contains_key(&key) {
        usage.retain(|_, one| {
            one.refill(share, now);
            one.connections > 0 || one.calls > 0 || one.tokens < share.burst
        });
    }
    let fresh = || Use { connections: 0, calls: 0, tokens: share.burst, at: now };
    usage.entry(key).or_insert_with(fresh)
}

impl Use {
    fn refill(&mut self, share: Share, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * share.per_second).min(share.burst);
        self.at = now;
    }

    fn room(
        &mut self,
        kind: UseKind,
        share: Share,
        group: &'static str,
        now: Instant,
    ) -> Result<(), Shed> {
        self.refill(share, now);
        match kind {
            UseKind::Connection if self.connections >= share.connections => {
                Err(Shed::Connections(group))
            }
            UseKind::Call if self.calls >= share.calls => Err(Shed::Calls(group)),
            UseKind::Call if self.tokens < 1.0 => Err(Shed::Rate(group)),
            UseKind::Connection | UseKind::Call => Ok(()),
        }
    }
}

impl Drop for UsagePlace {
    fn drop(&mut self) {
        let mut usage = self.limits.lock();
        let CallerUsage { processes, owners } = &mut *usage;
        let process = self.pid.and_then(|pid| processes.get_mut(&pid));
        for one in process.into_iter().chain(owners.get_mut(&self.group)) {
            match self.kind {
                UseKind::Connection => one.connections = one.connections.saturating_sub(1),
                UseKind::Call => one.calls = one.calls.saturating_sub(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spiffe_api::workload_api::AttachedPod;

    #[test]
    fn one_process_takes_its_share_and_no_more() {
        let limits = UsageLimits::default();
        let now = Instant::now();
        let call = |pid, now| limits.take(UseKind::Call, CallerGroup::User(7), Some(pid), now);
        let mut held: Vec<_> = (0..64).map(|_| call(1, now).unwrap()).collect();
        assert_eq!(call(1, now).unwrap_err(), Shed::Calls("process"));
        assert!(call(2, now).is_ok(), "another of the same user");
        held.pop();
        assert!(call(1, now).is_ok());
        drop(held);
        (0..400 - 65).for_each(|_| drop(call(1, now).unwrap()));
        assert_eq!(call(1, now).unwrap_err(), Shed::Rate("process"));
        assert!(call(1, now + Duration::from_millis(10)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_any_more_is_idle_and_who_waits_for_news_is_not() {
        let (limits, calls) = (UsageLimits::default(), Calls::none());
        let call = || limits.call(CallerGroup::User(7), Some(1), &calls).unwrap();
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let within =
            async |limit| tokio::time::timeout(limit, calls.idle_for(minutes(10))).await.is_ok();
        assert!(!within(minutes(9)).await && within(minutes(11)).await, "it never asked");
        let stream = call();
        assert!(!within(minutes(600)).await, "a stream that waits");
        drop(call());
        assert!(!within(minutes(600)).await, "beside a call that has ended");
        drop(stream);
        assert!(!within(minutes(9)).await && within(minutes(11)).await, "after the stream");
        // A call now and then, however short.
        let now_and_then = async {
            for _ in 0..10 {
                tokio::time::sleep(minutes(9)).await;
                drop(call());
            }
        };
        tokio::select! {
            () = now_and_then => {}
            () = calls.idle_for(minutes(10)) => panic!("it was in use"),
        }
    }

    #[test]
    fn callers_at_rest_are_forgotten() {
        let limits = UsageLimits::default();
        let now = Instant::now();
        let kept = limits.take(UseKind::Connection, CallerGroup::User(7), Some(0), now).unwrap();
        for pid in 1..5000 {
            let later = now + Duration::from_secs(u64::from(pid));
            drop(limits.take(UseKind::Call, CallerGroup::User(7), Some(pid), later).unwrap());
        }
        assert!(limits.lock().processes.len() <= REMEMBERED);
        assert_eq!(limits.lock().processes[&0].connections, 1);
        drop(kept);
        let usage = limits.lock();
        let user = &usage.owners[&CallerGroup::User(7)];
        assert_eq!((user.connections, user.calls), (0, 0));
    }

    #[test]
    fn connections_have_limits_of_their_own() {
        let limits = UsageLimits::default();
        let connect = |uid, pid| limits.connect(CallerGroup::User(uid), Some(pid));
        let held: Vec<_> = (0..64).map(|_| connect(7, 1).unwrap()).collect();
        assert_eq!(connect(7, 1).unwrap_err(), Shed::Connections("process"));
        let more: Vec<_> = (64..1024).map(|n| connect(7, 1 + n / 64).unwrap()).collect();
        assert_eq!(connect(7, 99).unwrap_err(), Shed::Connections("user"));
        drop((held, more));
        assert!(connect(7, 1).is_ok());
    }

    #[test]
    fn root_in_one_pod_takes_nothing_from_root_in_another() {
        let pod = |name: &str, netns| AttachedPod {
            uid: name.into(),
            id: format!("spiffe://td/{name}").parse().unwrap(),
            netns,
        };
        let pods = vec![pod("a", (4, 1)), pod("b", (4, 2))];
        let known = Registrations { pods, entries: Vec::new() };
        let of = |netns| CallerGroup::of(0, netns, Some(&known));
        assert_eq!(of(Some((4, 1))), CallerGroup::Pod((4, 1)));
        for elsewhere in [Some((4, 3)), None] {
            assert_eq!(of(elsewhere), CallerGroup::User(0), "of no pod that is carried");
        }
        assert_eq!(CallerGroup::of(0, Some((4, 1)), None), CallerGroup::User(0), "starting");
        let limits = UsageLimits::default();
        let connect = |group, pid| limits.connect(group, Some(pid));
        let held: Vec<_> = (0..1024).map(|n| connect(of(Some((4, 1))), n / 64).unwrap()).collect();
        assert_eq!(connect(of(Some((4, 1))), 99).unwrap_err(), Shed::Connections("pod"));
        assert!(connect(of(Some((4, 2))), 100).is_ok());
        assert!(connect(of(None), 101).is_ok());
        drop(held);
    }
}
