//! One buffer per worker for bytes that are on their way this very moment.

use std::cell::RefCell;

/// How large it is: what one read of a socket yields at most.
const SIZE: usize = 256 * 1024 + 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the worker's buffer for one call. Nothing in it outlives the call; calls inside
/// calls get one of their own.
pub fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            if scratch.is_empty() {
                scratch.resize(SIZE, 0);
            }
            work(&mut scratch)
        }
        Err(_) => work(&mut vec![0; SIZE]),
    })
}
