//! Who calls a pod, how often and for how much: over all its tunnels one caller has so many
//! streams and so much memory. One that was cut off for a flood is not taken again for a while,
//! so that it cannot have another handshake, and another allowance, for each one it used up.
//!
//! Counted is by identity; who is kept off, and whose tunnels share their turns on a worker
//! ([`super::readers`]), is an identity at its address: neither others of that address nor, of a
//! workload with many replicas, those elsewhere pay for it. Time comes in.
//!
//! Who is kept off is known once its handshake is done, and may repeat that. It gets what every
//! stranger gets, who needs no SVID to have a whole handshake made and refused: so many places for
//! handshakes of a source, where its own oldest goes first. A rate for its source would keep off
//! its neighbours there, whom nothing tells from it before they have shown who they are.

mod cut_off;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Context,
    thread::ThreadId,
    time::{Duration, Instant},
};

use cut_off::{CutOff, MOST_KNOWN};

use super::readers::{Reader, Readers};
use crate::{identity::SpiffeId, lifecycle::source};

/// What one caller may have of one pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CallerLimits {
    /// Tunnels open at once.
    pub tunnels: usize,
    /// Streams open in all of them.
    pub streams: usize,
    /// Bytes in memory for readers that stall, of all of them.
    pub held: usize,
    /// New tunnels per second; four times as many at once.
    pub new_tunnels: u32,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self { tunnels: 1_024, streams: 32_768, held: 128 << 20, new_tunnels: 1_000 }
    }
}

/// Why a tunnel of a caller, whose handshake is done, is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallerRefused {
    /// It has flooded a tunnel before.
    #[error("this caller was cut off for a flood and may connect again in {} \
             s", .left.as_secs_f64().ceil())]
    CutOff {
        /// Until it is taken again.
        left: Duration,
    },
    /// [`CallerLimits::new_tunnels`].
    #[error("this caller opens more than {per_second} tunnels a second")]
    TooFast {
        /// The limit.
        per_second: u32,
    },
    /// [`CallerLimits::tunnels`].
    #[error("this caller already has {tunnels} open tunnels to this pod")]
    TooMany {
        /// The limit.
        tunnels: usize,
    },
}

/// The callers of one pod.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    limits: CallerLimits,
    table: Arc<Mutex<CallerTable>>,
    streams: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct CallerTable {
    cut_off: CutOff<(SpiffeId, IpAddr)>,
    known: HashMap<SpiffeId, KnownCaller>,
    /// Of those that have tunnels on a worker.
    readers: HashMap<OnWorker, Weak<Readers>>,
}

type OnWorker = (SpiffeId, IpAddr, ThreadId);

#[derive(Debug)]
struct KnownCaller {
    rate: Rate,
    has: Arc<Has>,
}

/// What one caller has now.
#[derive(Debug, Default)]
struct Has {
    tunnels: AtomicUsize,
    streams: AtomicUsize,
    held: AtomicUsize,
    /// Bytes that came and that nothing was done about yet.
    unread: AtomicUsize,
}

/// A caller with a tunnel, until dropped.
#[derive(Debug)]
pub struct Caller {
    callers: Callers,
    at: (SpiffeId, IpAddr),
    has: Arc<Has>,
}

/// The place of one stream, until dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    of_caller: Arc<Has>,
    of_all: Arc<AtomicUsize>,
}

/// What one tunnel has of its caller's share: of memory, and of its worker's time.
#[derive(Debug)]
pub(super) struct Share {
    has: Arc<Has>,
    most: usize,
    own: usize,
    unread: usize,
    reader: Option<Reader>,
    callers: Callers,
    at: OnWorker,
}

impl Callers {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(limits: CallerLimits) -> Self {
        Self { limits, table: Arc::default(), streams: Arc::default() }
    }

    /// How many streams are open, of all callers.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Takes a tunnel of `id`, whose handshake is done.
    ///
    /// # Errors
    /// Why it is closed instead.
    pub fn enter(
        &self,
        id: &SpiffeId,
        from: IpAddr,
        now: Instant,
    ) -> Result<Caller, CallerRefused> {
        let CallerLimits { tunnels, new_tunnels, .. } = self.limits;
        let at = (id.clone(), source(from));
        let mut table = self.lock();
        if let Some(left) = table.cut_off.left(&at, now) {
            return Err(CallerRefused::CutOff { left });
        }
        let (may, has) = table.may_open(id, new_tunnels, now);
        if !may {
            return Err(CallerRefused::TooFast { per_second: new_tunnels });
        }
        if has.tunnels.fetch_add(1, Relaxed) >= tunnels {
            has.tunnels.fetch_sub(1, Relaxed);
            return Err(CallerRefused::TooMany { tunnels });
        }
        drop(table);
        Ok(Caller { callers: self.clone(), at, has })
    }

    fn lock(&self) -> MutexGuard<'_, CallerTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// It flooded its tunnel, and gets no other one from its address for a while.
    pub fn cut_off(&self, now: Instant) {
        self.callers.lock().cut_off.add(self.at.clone(), now);
    }

    /// A place for one more stream.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn stream(&self) -> Result<StreamPlace, &'static str> {
        let CallerLimits { streams, held, .. } = self.callers.limits;
        if self.has.held.load(Relaxed) > held - held / 4 {
            return Err("this caller's stalled readers hold too much memory");
        }
        let of_all = Arc::clone(&self.callers.streams);
        of_all.fetch_add(1, Relaxed);
        let place = StreamPlace { of_caller: Arc::clone(&self.has), of_all };
        match self.has.streams.fetch_add(1, Relaxed) < streams {
            true => Ok(place),
            false => Err("this caller has too many streams open to this pod"),
        }
    }

    /// Where one of its tunnels, that this worker serves, counts what it holds and does.
    pub(super) fn share(&self) -> Share {
        let (id, from) = self.at.clone();
        let at = (id, from, std::thread::current().id());
        let mut table = self.callers.lock();
        let known = table.readers.entry(at.clone()).or_default();
        let readers = known.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *known = Arc::downgrade(&fresh);
            fresh
        });
        drop(table);
        Share {
            has: Arc::clone(&self.has),
            most: self.callers.limits.held,
            own: 0,
            unread: 0,
            reader: Some(Reader::new(readers)),
            callers: self.callers.clone(),
            at,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.has.tunnels.fetch_sub(1, Relaxed);
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.of_caller.streams.fetch_sub(1, Relaxed);
        self.of_all.fetch_sub(1, Relaxed);
    }
}

impl Share {
    /// Whether so much more may be held; it is counted then.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        if self.has.held.fetch_add(bytes, Relaxed) + bytes > self.most {
            self.has.held.fetch_sub(bytes, Relaxed);
            return false;
        }
        self.own += bytes;
        true
    }

    /// So much is held no more.
    pub(super) fn release(&mut self, bytes: usize) {
        self.own -= bytes;
        self.has.held.fetch_sub(bytes, Relaxed);
    }

    /// Whether windows should grow no further.
    pub(super) fn is_tight(&self) -> bool {
        self.has.held.load(Relaxed) > self.most / 2
    }

    /// So many bytes came that nothing was done about yet.
    pub(super) fn set_unread(&mut self, bytes: usize) {
        self.has.unread.fetch_add(bytes, Relaxed);
        self.has.unread.fetch_sub(self.unread, Relaxed);
        self.unread = bytes;
    }

    /// Whether its caller's tunnels are to read no more than they must.
    pub(super) fn has_much_unread(&self) -> bool {
        self.has.unread.load(Relaxed) > MOST_UNREAD
    }

    /// How much may be done for this tunnel now, as [`Reader::may`].
    pub(super) fn may_read(&mut self, cx: &mut Context<'_>) -> Option<usize> {
        self.reader.as_mut().map_or(Some(usize::MAX), |reader| reader.may(cx))
    }

    /// A turn is over, as [`Reader::done`].
    pub(super) fn has_read(&mut self, work: usize, again: bool, cx: &mut Context<'_>) {
        if let Some(reader) = &mut self.reader {
            reader.done(work, again, cx);
        }
    }

    /// There is nothing to read, or will never be.
    pub(super) fn reads_nothing(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.leave();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.has.held.fetch_sub(self.own, Relaxed);
        self.has.unread.fetch_sub(self.unread, Relaxed);
        self.reader = None;
        let mut table = self.callers.lock();
        if table.readers.get(&self.at).is_some_and(|readers| readers.strong_count() == 0) {
            table.readers.remove(&self.at);
        }
    }
}

impl CallerTable {
    /// Whether `id` may open a tunnel now, at most `per_second`; and what it has.
    fn may_open(&mut self, id: &SpiffeId, per_second: u32, now: Instant) -> (bool, Arc<Has>) {
        let most = per_second.saturating_mul(BURST);
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(id) {
            self.known.retain(|_, known| {
                known.rate.fill(per_second, most, now);
                known.rate.left < most || known.is_here()
            });
            // So many in so short a time: whose rate begins anew is no matter. Those that are
            // here are as many as there are places for tunnels.
            if self.known.len() >= MOST_KNOWN
                && let Some((any, _)) = self.known.iter().find(|(_, known)| !known.is_here())
            {
                let any = any.clone();
                self.known.remove(&any);
            }
        }
        let fresh = || KnownCaller { rate: Rate { left: most, filled: now }, has: Arc::default() };
        let KnownCaller { rate, has } = self.known.entry(id.clone()).or_insert_with(fresh);
        rate.fill(per_second, most, now);
        let may = rate.left > 0;
        rate.left -= u32::from(may);
        (may, Arc::clone(has))
    }
}

impl KnownCaller {
    /// Whether anything counts what this caller has.
    fn is_here(&self) -> bool {
        Arc::strong_count(&self.has) > 1
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

/// So many seconds' worth of new tunnels may come at once.
const BURST: u32 = 4;
/// With so much unread, the tunnels of a caller read a record at a time.
const MOST_UNREAD: usize = 4 << 20;

#[cfg(test)]
mod tests;
