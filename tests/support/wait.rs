//! Waiting for what must happen: with a limit, and with words for what has not happened.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    io::{self, ErrorKind, Read},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take where time is not the subject; a machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns once it is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    wait_for(what, limit, || so().then_some(()));
}

/// Returns what is found.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// [`wait_until`] in a task: others go on meanwhile.
pub(crate) async fn wait_until_async(
    what: &str,
    limit: Duration,
    mut so: impl AsyncFnMut() -> bool,
) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads once from a socket that may have a time limit. The kernel ends such a read early also
/// where the process was stopped or frozen and goes on (signal(7)); then it is made again.
pub(crate) fn read_once(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    again(|| from.read(into))
}

/// Makes a call again that the kernel ended early.
pub(crate) fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
