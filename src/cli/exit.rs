//! The exit codes of all commands.

/// It did what was asked.
pub const OK: u8 = 0;
/// It ran, and failed; or what it looked at is not as it should be.
pub const FAILED: u8 = 1;
/// The command line is wrong; of `adit server` and `adit client`, as ghostunnel, [`FAILED`].
pub const USAGE: u8 = 2;
/// A file (or folder, or socket) that it was given, or that such a file names, cannot be read or
/// has faults.
pub const BAD_CONFIG: u8 = 3;
