//! What commands print: the one way to standard output and standard error.
//!
//! A reader that has gone (`| head -1`) ends nothing: what a command does is done to the end, what
//! else it would have printed is dropped, and its exit code stays. Output that is lost for another
//! reason (a full disk) is an error, which [`finished`] makes of an exit code that said success.

use std::{
    fmt,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use super::exit::{FAILED, OK};

/// Prints a line on standard output.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::output::line(format_args!($($words)*)) };
}
/// Prints a line on standard error. Who cannot be told cannot be told that either.
macro_rules! complain {
    ($($words:tt)*) => { $crate::cli::output::error_line(format_args!($($words)*)) };
}
pub(super) use {complain, say};

/// Why standard output takes no more.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// A line on standard output; see [`say`].
pub(super) fn line(words: fmt::Arguments<'_>) {
    write(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{words}")
    });
}

/// Text on standard output, as it is.
pub(super) fn text(all: &str) {
    write(|| io::stdout().lock().write_all(all.as_bytes()));
}

/// A line on standard error; see [`complain`].
pub(super) fn error_line(words: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// Writes to standard output, unless it takes no more.
pub(super) fn write(what: impl FnOnce() -> io::Result<()>) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if lost.is_none() {
        *lost = what().and_then(|()| io::stdout().flush()).err();
    }
}

/// Whether standard output takes no more: who prints on and on ends then.
pub(super) fn is_lost() -> bool {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// The exit code of a command that ends with this one, if its output counts too.
pub(super) fn finished(code: u8) -> u8 {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*lost {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            error_line(format_args!("adit: error: standard output: {error}"));
            if code == OK { FAILED } else { code }
        }
        _ => code,
    }
}
