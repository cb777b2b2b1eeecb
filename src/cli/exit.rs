//! The exit codes of all commands.

/// It did what was asked.
pub const OK: u8 = 0;
/// It ran, and failed; or what it looked at is not as it should be.
pub const FAILED: u8 = 1;
/// The command line is wrong; of `adit server` and `adit client`, as ghostunnel, [`FAILED`].
pub const USAGE: u8 = 2;
/// A file (or directory, or socket) that it was given, or that such a file names, cannot be used.
pub const BAD_CONFIG: u8 = 3;

/// The exit codes as the end of `adit --help` lists them.
pub(super) const CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 a file, directory or
socket that was given, or that a file names, is missing or has errors.
adit server and adit client exit with 0 or 1 only, as ghostunnel does.";

/// The exit codes as manual pages list them: code and meaning.
pub(super) const MEANINGS: [(&str, &str); 4] = [
    ("0", "It did what was asked."),
    ("1", "It failed, or what it checked is not as it should be."),
    ("2", "The command line is wrong or incomplete."),
    (
        "3",
        "A file, directory or socket that was given, or that a file names, cannot be used: it is \
         missing or has errors.",
    ),
];

/// The exit codes of `adit server` and `adit client`, as their manual pages list them.
pub(super) const AS_GHOSTUNNEL: [(&str, &str); 2] = [
    ("0", "It ended in order, after SIGTERM or a requested shutdown."),
    ("1", "It failed, or the command line is wrong (as ghostunnel)."),
];
