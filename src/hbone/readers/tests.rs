#![allow(clippy::unwrap_used)]

use futures_util::task::{ArcWake, waker};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(it: &Arc<Self>) {
        it.0.fetch_add(1, Relaxed);
    }
}

struct One {
    reader: Reader,
    woken: Arc<Woken>,
}

impl One {
    fn of(line: &Arc<Readers>) -> Self {
        Self { reader: Reader::new(Arc::clone(line)), woken: Arc::default() }
    }

    fn may(&mut self) -> Option<usize> {
        self.reader.may(&mut Context::from_waker(&waker(Arc::clone(&self.woken))))
    }

    fn done(&mut self, work: usize, again: bool) {
        self.reader.done(work, again, &mut Context::from_waker(&waker(Arc::clone(&self.woken))));
    }

    fn woken(&self) -> usize {
        self.woken.0.swap(0, Relaxed)
    }
}

#[test]
fn who_does_little_never_waits() {
    let line = Arc::default();
    let mut both = [One::of(&line), One::of(&line)];
    for n in 0..50 {
        let one = &mut both[n % 2];
        assert!(one.may().is_some_and(|most| most > TURN - 10 * 50));
        one.done(10, false);
        assert_eq!(one.woken(), 0);
    }
}

/// All of them together have a turn, in the order in which they came.
#[test]
fn who_has_many_is_called_one_after_the_other() {
    let line = Arc::default();
    let mut all: Vec<_> = (0..4).map(|_| One::of(&line)).collect();
    assert_eq!(all[0].may(), Some(TURN));
    all[0].done(TURN, true);
    assert_eq!(all[0].woken(), 1, "alone, it goes on behind others");
    for one in &mut all[1..] {
        assert_eq!((one.may(), one.may()), (None, None));
    }
    for n in 0..12 {
        assert_eq!(all[n % 4].may(), Some(TURN));
        all[n % 4].done(TURN, true);
        let woken: Vec<_> = all.iter().map(One::woken).collect();
        let mut next = [0; 4];
        next[(n + 1) % 4] = 1;
        assert_eq!(woken, next);
    }
}

/// As many as fit into a round, by what they took lately; who takes more than that has little.
#[test]
fn those_that_do_little_are_called_together() {
    let line = Arc::default();
    let mut busy = One::of(&line);
    let mut quiet: Vec<_> = (0..100).map(|_| One::of(&line)).collect();
    busy.may().unwrap();
    busy.done(TURN, true);
    for one in &mut quiet {
        one.reader.expected = LEAST;
        assert_eq!(one.may(), None);
    }
    busy.may().unwrap();
    busy.done(TURN, false);
    assert_eq!(quiet.iter().map(One::woken).sum::<usize>(), TURN / LEAST);
    let mut did = 0;
    for one in &mut quiet[..TURN / LEAST] {
        let most = one.may().unwrap();
        one.done(most, false);
        did += most;
    }
    assert!(did < 2 * TURN, "{did}");
}

/// Whoever was called and is gone, or has nothing to read any more, calls the next.
#[test]
fn a_call_that_nobody_answers_goes_to_the_next() {
    let line = Arc::default();
    let mut all: Vec<_> = (0..4).map(|_| One::of(&line)).collect();
    all[0].may().unwrap();
    all[0].done(TURN, true);
    all[1..].iter_mut().for_each(|one| assert_eq!(one.may(), None));
    all.remove(0);
    assert_eq!(all[0].woken(), 1);
    all.remove(1); // it was in line
    all[0].reader.leave();
    assert_eq!((all[0].woken(), all[1].woken()), (0, 1));
    assert!(all[1].may().is_some());
}
