//! A pipe in the place of a file: who reads that waits until somebody writes, as where a mount
//! hangs.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    fs::{File, OpenOptions, remove_file},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

use crate::wait::{LIMIT, wait_for};

/// The same file by a path of `/proc`: adit reads pipes that a shell makes, which are there, and
/// refuses others.
pub(crate) fn by_proc(path: &Path) -> PathBuf {
    Path::new("/proc/self/root").join(path.strip_prefix("/").expect("an absolute path"))
}

/// Puts one there.
pub(crate) fn put(path: &Path) {
    let _ = remove_file(path);
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
}

/// Its end to write to, once adit reads it.
#[track_caller]
pub(crate) fn read_by_adit(path: &Path) -> File {
    // It can be opened once somebody reads it.
    let open = || OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    wait_for("adit reads the pipe", LIMIT, || open().ok())
}
