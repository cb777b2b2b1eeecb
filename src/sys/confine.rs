//! Takes from this process what it does not need: files and ports by Landlock
//! (<https://docs.kernel.org/userspace-api/landlock.html>), system calls by seccomp. For good:
//! nothing gives it back, and what the process starts has no more. Call it before any thread
//! starts, as each confines the thread that calls and those that it makes.

mod landlock;
mod seccomp;

use std::path::PathBuf;

pub use landlock::landlock;
pub use seccomp::seccomp;

/// How far a process confines itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sandbox {
    /// Files and ports.
    pub landlock: bool,
    /// System calls.
    pub seccomp: bool,
    /// Not to start with less than all that is asked for.
    pub required: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { landlock: true, seccomp: true, required: false }
    }
}

/// What stays allowed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Read, with all below.
    pub read: Vec<PathBuf>,
    /// Read and changed, with all below.
    pub write: Vec<PathBuf>,
    /// Programs and what they load.
    pub execute: Vec<PathBuf>,
    /// TCP ports to listen at; `None` are all.
    pub listen: Option<Vec<u16>>,
    /// TCP ports to connect to; `None` are all.
    pub connect: Option<Vec<u16>>,
    /// Whether threads, and what they start, enter namespaces that are there.
    pub enter_namespaces: bool,
    /// Whether entries of the kernel's maps are read and changed (bpf(2)); what else there is of
    /// them is made before.
    pub map_entries: bool,
    /// Whether any file may be read.
    pub read_all: bool,
    /// Whether files are none of ours to restrict.
    pub any_file: bool,
}

/// How far the kernel went along.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// All rules hold.
    Full,
    /// The kernel is too old for some.
    Partial,
    /// It has no Landlock, or it is off.
    None,
    /// As far as those that started this process, and no further: there are as many layers of
    /// rules as the kernel takes.
    Before,
}

#[cfg(test)]
mod tests;
