//! Who is at the other end of a Unix socket, as the kernel vouches for it.
//!
//! A process ID alone is not proof: it may be used again by another process. The pidfd that
//! stands beside it here names the process that connected and no other.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};

/// The process that made a connection, as it was then.
#[derive(Debug)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its ID in our process namespace; `None` if it cannot be seen from here.
    pub pid: Option<u32>,
    process: Option<Process>,
}

/// One process, which its ID names for as long as it runs.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this ID now; `None` if none has, as seen from here.
    #[must_use]
    pub fn open(pid: u32) -> Option<Self> {
        // SAFETY: pidfd_open(2) takes two integers and no pointer.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one pollfd that lives through the call, whose descriptor
        // `self` keeps open; a timeout of zero does not wait.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready == 0
    }
}

impl Peer {
    /// Asks the kernel who connected `socket`.
    ///
    /// # Errors
    /// If it is not a Unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
        let process = match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(process) => Some(Process(process)),
            // Linux before 6.5: the process of that ID as of now.
            Err(Errno::ENOPROTOOPT) => pid.and_then(Process::open),
            Err(_) => None,
        };
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid, process })
    }

    /// Whether the process that connected still runs. While it does, its ID is its own: what was
    /// read of `/proc/PID` before the answer was read of this process.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.process.as_ref().is_some_and(Process::alive)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::{fd::AsFd, unix::net::UnixListener},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_caller_that_is_gone_is_not_taken_for_one_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let ours = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let us = Peer::of(socket.as_fd()).unwrap();
        assert_eq!((us.pid, us.alive()), (Some(std::process::id()), true));
        assert_eq!(us.uid, nix::unistd::geteuid().as_raw());
        drop(ours);
        let connect = format!("import socket; socket.socket(1).connect({path:?})");
        let done = Command::new("python3").args(["-c", &connect]).status();
        if !done.is_ok_and(|status| status.success()) {
            return; // no Python here: the other half is all that is shown
        }
        let (socket, _) = listener.accept().unwrap();
        assert!(!Peer::of(socket.as_fd()).unwrap().alive());
    }
}
