//! Which of its caller's tunnels is read next, on one worker.
//!
//! Tunnels take turns. A caller may have many, and is to get no more time of a worker than one
//! that has a single tunnel: what all of its tunnels do in a round is one turn. Those that come
//! later in that round stand in line, where they cost nothing, and are called when others have
//! had their turns. A caller that does little never has a line.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use crate::lifecycle::behind_others;

/// How much is done for one caller in a turn, a frame or a record counted as one: well below a
/// millisecond of what costs most. Bulk stays far below it.
pub(super) const TURN: usize = 512;
/// What a tunnel that was called may do at least, and is thought to do.
const LEAST: usize = 16;

/// The tunnels of one caller on one worker, as far as they are to be read.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// What was done in this round.
    spent: usize,
    /// Who was woken to go on, and what it will do, as far as can be known.
    called: Vec<(u64, usize)>,
    waiting: VecDeque<Waits>,
    next: u64,
}

#[derive(Debug)]
struct Waits {
    id: u64,
    expected: usize,
    waker: Waker,
}

/// One tunnel among its caller's; leaves them when dropped.
#[derive(Debug)]
pub(super) struct Reader {
    line: Arc<Readers>,
    id: u64,
    /// What its turns took lately.
    expected: usize,
    /// Whether it stands in line, or was called and has not come yet.
    waits: bool,
}

/// Who is to be woken once the line is not locked any more.
#[derive(Default)]
struct Calls {
    now: Vec<Waker>,
    behind_others: Vec<Waker>,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn promised(&self) -> usize {
        self.called.iter().map(|(_, work)| work).sum()
    }

    fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.spent + self.promised() < TURN
    }

    fn join(&mut self, id: u64, expected: usize, waker: &Waker) {
        match self.waiting.iter_mut().find(|waits| waits.id == id) {
            Some(waits) => waits.waker.clone_from(waker),
            None => self.waiting.push_back(Waits { id, expected, waker: waker.clone() }),
        }
    }

    /// Calls those whose turns fit into this round; a new one begins once there is nobody else.
    fn call(&mut self) -> Calls {
        let (mut calls, mut begins) = (Calls::default(), false);
        while let Some(first) = self.waiting.front() {
            let promised = self.promised();
            if self.spent + promised + first.expected > TURN {
                if promised > 0 {
                    break;
                }
                if self.spent >= TURN / 2 {
                    (self.spent, begins) = (0, true);
                }
            }
            let Some(Waits { id, expected, waker }) = self.waiting.pop_front() else { break };
            self.called.push((id, expected));
            let woken = if begins { &mut calls.behind_others } else { &mut calls.now };
            woken.push(waker);
        }
        calls
    }
}

impl Calls {
    fn wake(self) {
        self.now.into_iter().for_each(Waker::wake);
        for waker in self.behind_others {
            behind_others(&mut Context::from_waker(&waker));
        }
    }
}

impl Reader {
    pub(super) fn new(line: Arc<Readers>) -> Self {
        let mut locked = line.lock();
        let id = locked.next;
        locked.next += 1;
        drop(locked);
        Self { line, id, expected: TURN, waits: false }
    }

    /// How much may be done for this tunnel now: [`Reader::done`] is told how much it was.
    /// `None`: others come first, and it is woken.
    pub(super) fn may(&mut self, cx: &mut Context<'_>) -> Option<usize> {
        let mut line = self.line.lock();
        if line.called.iter().any(|(id, _)| *id == self.id) || (!self.waits && line.has_room()) {
            return Some(TURN.saturating_sub(line.spent).max(LEAST));
        }
        line.join(self.id, self.expected, cx.waker());
        self.waits = true;
        let calls = line.call();
        drop(line);
        calls.wake();
        None
    }

    /// A turn is over; there is more to do if it goes on `again`.
    pub(super) fn done(&mut self, work: usize, again: bool, cx: &mut Context<'_>) {
        // Who was quiet once is not thought to be so at once.
        self.expected = work.max(self.expected - self.expected / 8).clamp(LEAST, TURN);
        let mut line = self.line.lock();
        line.spent += work;
        line.called.retain(|(id, _)| *id != self.id);
        let stays = again && !line.has_room();
        if stays {
            line.join(self.id, self.expected, cx.waker());
        }
        self.waits = stays;
        let calls = line.call();
        drop(line);
        calls.wake();
        if again && !stays {
            behind_others(cx);
        }
    }

    /// It was woken, or waits, for what is no longer there.
    pub(super) fn leave(&mut self) {
        if !std::mem::take(&mut self.waits) {
            return;
        }
        let mut line = self.line.lock();
        line.called.retain(|(id, _)| *id != self.id);
        let at = line.waiting.iter().position(|waits| waits.id == self.id);
        let left = at.and_then(|at| line.waiting.remove(at));
        let calls = line.call();
        drop(line);
        drop(left); // what a waker ends with may be a tunnel of this line
        calls.wake();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
