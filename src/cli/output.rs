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

use clap::{Args, ValueEnum};

use super::exit::{FAILED, OK};

// The flags of all commands whose results scripts read. (No documentation comment: it would be the
// text about the command.)
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Format {
    /// Print as JSON, for scripts
    #[arg(long)]
    json: bool,
    /// Print as text or JSON; `--output json` means `--json`
    #[arg(long, hide = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Format {
    /// Whether a script reads it.
    pub(super) fn is_json(self) -> bool {
        self.json || self.output == Output::Json
    }
}

/// Prints a line on standard output.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::output::line(format_args!($($words)*)) };
}
/// Prints a line on standard error. If that fails, there is nobody to tell.
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

/// Whether a terminal takes colours here, and they are wanted (NO_COLOR).
pub(super) fn has_colours(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

/// The widest text that is easy to read.
const WIDEST: usize = 120;

/// How many columns text for people has: those of the terminal, 80 where there is none.
pub(super) fn columns() -> usize {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(80, |(terminal_size::Width(width), _)| usize::from(width)).clamp(40, WIDEST)
}

/// Whether standard output takes no more: a command that prints updates ends then.
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
