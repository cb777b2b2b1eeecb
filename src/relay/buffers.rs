//! Buffers that a worker's tunnels share: one holds some only while bytes are on their way.

use std::{cell::RefCell, ops::Range};

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static RANGES: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
}

/// How many buffers a worker keeps.
const MOST_SPARE: usize = 4;
/// A fresh buffer; it grows as needed.
const FRESH: usize = 4096;

/// A buffer to lay records down in.
pub(crate) fn take() -> Vec<u8> {
    let spare = SPARE.with(|spare| spare.try_borrow_mut().ok().and_then(|mut s| s.pop()));
    spare.unwrap_or_else(|| vec![0; FRESH])
}

/// Gives it back.
pub(crate) fn give(buffer: Vec<u8>) {
    SPARE.with(|spare| {
        if let Ok(mut spare) = spare.try_borrow_mut()
            && spare.len() < MOST_SPARE
        {
            spare.push(buffer);
        }
    });
}

/// Lends the worker's list of ranges, empty.
pub(crate) fn with_ranges<T>(work: impl FnOnce(&mut Vec<Range<usize>>) -> T) -> T {
    let mut ranges = RANGES.with(RefCell::take);
    ranges.clear();
    let done = work(&mut ranges);
    RANGES.with(|kept| kept.replace(ranges));
    done
}
