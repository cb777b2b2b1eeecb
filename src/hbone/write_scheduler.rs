//! Whose turn it is to write when more streams have something to say than the socket takes.
//!
//! First come, first served, a share each: the more stand in line, the smaller the share, so
//! that a round takes about as long whoever takes part. RFC 9113 §5.3 leaves the order to us.

use std::collections::VecDeque;

use crate::tls::record::MOST_READ;

/// What may wait to be written before streams must wait, in bytes.
const WAITING: usize = 64 * 1024;
/// The smallest share.
const QUANTUM: usize = 16 * 1024;

/// The line of those who wait, and the turns that were given and not used yet.
#[derive(Debug, Default)]
pub(super) struct WriteScheduler {
    line: VecDeque<u32>,
    given: Vec<(u32, usize)>,
}

impl WriteScheduler {
    /// How many bytes a stream may write now, while `waiting` bytes are unwritten. `None`:
    /// others come first; it stands in line, and [`WriteScheduler::next`] will name it. A turn is
    /// over with this, used or not: [`WriteScheduler::next`] must be asked afterwards.
    pub(super) fn take(&mut self, id: u32, waiting: usize) -> Option<usize> {
        if let Some(at) = self.given.iter().position(|(given, _)| *given == id) {
            return Some(self.given.swap_remove(at).1);
        }
        if self.line.is_empty() && waiting < WAITING {
            return Some(MOST_READ);
        }
        if !self.line.contains(&id) {
            self.line.push_back(id);
        }
        None
    }

    /// Gives the next in line a turn, if there is room.
    pub(super) fn next(&mut self, waiting: usize) -> Option<u32> {
        let promised: usize = self.given.iter().map(|(_, bytes)| bytes).sum();
        if waiting + promised >= WAITING {
            return None;
        }
        let writers = self.line.len() + self.given.len();
        let share = (MOST_READ / writers.max(1)).max(QUANTUM);
        let id = self.line.pop_front()?;
        self.given.push((id, share));
        Some(id)
    }

    /// Forgets a stream that is over.
    pub(super) fn forget(&mut self, id: u32) {
        self.given.retain(|(given, _)| *given != id);
        self.line.retain(|waits| *waits != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_is_not_held_up() {
        let mut turns = WriteScheduler::default();
        assert_eq!(turns.take(1, 0), Some(MOST_READ));
        assert_eq!(turns.take(1, WAITING - 1), Some(MOST_READ));
        assert_eq!((turns.take(1, WAITING), turns.next(WAITING)), (None, None));
        assert_eq!((turns.next(0), turns.take(1, 0)), (Some(1), Some(MOST_READ)));
    }

    /// The socket takes 64 KiB at a time; three streams want to write all the time.
    #[test]
    fn many_take_turns_of_the_same_size_in_the_same_order() {
        let mut turns = WriteScheduler::default();
        let mut wrote = Vec::new();
        for id in [1, 3, 5] {
            assert_eq!(turns.take(id, WAITING), None);
            assert_eq!(turns.take(id, WAITING), None, "in line once");
        }
        for _ in 0..30 {
            let mut waiting = 0;
            while let Some(id) = turns.next(waiting) {
                let share = turns.take(id, waiting).unwrap();
                waiting += share;
                wrote.push((id, share));
                assert_eq!(turns.take(id, waiting), None, "to the end of the line");
            }
        }
        let order: Vec<_> = wrote.iter().map(|(id, _)| *id).collect();
        assert!(order.chunks_exact(3).all(|round| round == [1, 3, 5]), "{order:?}");
        assert!(wrote.iter().all(|(_, share)| *share == MOST_READ / 3), "{wrote:?}");
    }

    #[test]
    fn a_turn_that_nobody_takes_goes_to_the_next() {
        let mut turns = WriteScheduler::default();
        for id in [1, 3, 5] {
            turns.take(id, WAITING);
        }
        assert_eq!((turns.next(0), turns.next(0)), (Some(1), Some(3)), "a third each");
        assert_eq!(turns.next(0), None);
        turns.forget(1);
        assert_eq!(turns.next(0), Some(5));
        turns.forget(3);
        turns.forget(5);
        assert_eq!((turns.next(0), turns.take(7, 0)), (None, Some(MOST_READ)));
    }

    /// A newcomer with a small message waits for one round, not for all that others have.
    #[test]
    fn a_newcomer_waits_for_one_round() {
        let mut turns = WriteScheduler::default();
        for id in 0..10 {
            turns.take(id, WAITING);
        }
        turns.take(99, WAITING);
        let mut before = 0;
        while let Some(id) = turns.next(0) {
            let share = turns.take(id, 0).unwrap();
            if id == 99 {
                break;
            }
            before += share;
            turns.take(id, WAITING);
        }
        assert_eq!(before, 10 * QUANTUM);
    }
}
