//! Pipes that bytes are spliced through (splice(2)), lent by the thread that has them.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    fcntl::{OFlag, SpliceFFlags, splice},
    unistd::pipe2,
};

use super::descriptors::of_traffic;

/// How many idle ones a thread keeps.
const KEPT: usize = 64;
/// What one read takes at most: what a pipe holds unless somebody makes it larger (pipe(7)).
const MOST: usize = 64 * 1024;

/// A pipe, and how much is in it.
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    inside: usize,
}

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptors; the last of them are not for traffic.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = IDLE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { out: of_traffic(out)?, into: of_traffic(into)?, inside: 0 })
    }

    /// For whoever needs one next; one that is not empty is closed.
    pub fn give(self) {
        IDLE.with_borrow_mut(|idle| {
            if self.inside == 0 && idle.len() < KEPT {
                idle.push(self);
            }
        });
    }

    /// How much is in it.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.inside
    }

    /// Moves what a socket has into it, without waiting: how much; 0 at the end. Into an empty one
    /// only: of a full one it could not be told whether the socket has nothing.
    ///
    /// # Errors
    /// As splice(2).
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.inside, 0);
        let n = splice(from, None, &self.into, None, MOST, how())?;
        self.inside = n;
        Ok(n)
    }

    /// Moves what is in it into a socket, without waiting: how much.
    ///
    /// # Errors
    /// As splice(2).
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let n = splice(&self.out, None, to, None, self.inside, how())?;
        self.inside -= n.min(self.inside);
        Ok(n)
    }
}

fn how() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}
