//! Descriptors that come from another process: from the service manager at start, or over a
//! Unix socket (`SCM_RIGHTS`, unix(7)).

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// The kernel's limit for one message (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;

/// How many descriptors are kept for what is not traffic: capture rules, certificates, readiness.
const RESERVE: u64 = 64;

/// Whether a descriptor that traffic has just taken is one of those that are kept: the kernel
/// gives the lowest that is free. A process that may have few keeps none.
#[must_use]
pub fn is_reserved(fd: BorrowedFd<'_>) -> bool {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let from = if most < 4 * RESERVE { most } else { most - RESERVE };
    u64::try_from(fd.as_raw_fd()).is_ok_and(|fd| fd >= from)
}

/// What traffic has just taken, unless its descriptor is one of those that are kept.
///
/// # Errors
/// EMFILE: it is closed again.
pub fn of_traffic<T: AsFd>(taken: T) -> io::Result<T> {
    match is_reserved(taken.as_fd()) {
        true => Err(Errno::EMFILE.into()),
        false => Ok(taken),
    }
}

/// Whether a descriptor that traffic has just taken is one of the last quarter. There, whoever has
/// `has` and shares the descriptors with so many others goes without once it has its part.
#[must_use]
pub fn is_more_than_its_part(fd: BorrowedFd<'_>, has: usize, others: usize) -> bool {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    exceeds(u64::try_from(fd.as_raw_fd()).unwrap_or_default(), most, has as u64, others as u64)
}

fn exceeds(fd: u64, most: u64, has: u64, others: u64) -> bool {
    most >= 4 * RESERVE && fd >= most - most / 4 && has >= most / (others + 1)
}

/// The sockets that the service manager opened for this process, with their names
/// (sd_listen_fds(3)); the variables that told of them are unset, so that no child uses them. For
/// the start of the process: a second call finds nothing.
///
/// # Errors
/// If the variables contradict each other, or if the process has threads already.
pub fn from_service_manager() -> io::Result<Vec<(String, OwnedFd)>> {
    if std::env::var_os("LISTEN_FDS").is_none() {
        return Ok(Vec::new());
    }
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::other("sockets are taken over before threads start"));
    }
    // SAFETY: no other thread runs, as was just seen, that could read the environment meanwhile.
    let found = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
    // SAFETY: the manager has left these descriptors to this process (LISTEN_PID is ours), and
    // nobody else takes them: the variables are gone.
    Ok(found.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}

/// Sends descriptors with a message, in one piece. Does not wait if `socket` does not.
///
/// # Errors
/// As sendmsg(2), and if there are more than [`MOST_DESCRIPTORS`].
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MOST_DESCRIPTORS {
        let why = format!("{} descriptors do not fit into a message", fds.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let (pieces, flags) = ([IoSlice::new(message)], MsgFlags::MSG_NOSIGNAL);
    let fd = socket.as_raw_fd();
    let sent = again(|| sendmsg::<UnixAddr>(fd, &pieces, rights, flags, None))?;
    if sent < message.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the message was cut"));
    }
    Ok(())
}

/// Receives what [`send`] has sent: the message, at most as long as `room`, and the descriptors.
///
/// # Errors
/// As recvmsg(2), and if descriptors were lost on the way.
pub fn receive(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let got = take(socket, room, MOST_DESCRIPTORS)?;
    if got.lost {
        return Err(io::Error::other("file descriptors were lost: too many are open"));
    }
    Ok((got.bytes, got.fds))
}

/// Makes a call again that ended early. A socket with a time limit does that also where the process
/// was stopped or frozen and goes on (signal(7)).
fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// What came in one call.
pub(super) struct Taken {
    /// How much of the room is filled.
    pub(super) bytes: usize,
    /// Each is closed unless somebody keeps it.
    pub(super) fds: Vec<OwnedFd>,
    /// The message was longer than the room, and its rest is gone.
    pub(super) cut: bool,
    /// There were more descriptors, or the process may have no more.
    pub(super) lost: bool,
}

/// Receives a message with room for so many descriptors: whatever is wrong with it, those that came
/// are owned, so that none stays open unseen.
///
/// # Errors
/// As recvmsg(2).
pub(super) fn take(socket: BorrowedFd<'_>, room: &mut [u8], most: usize) -> io::Result<Taken> {
    let rights = u32::try_from(most * size_of::<RawFd>()).map_err(io::Error::other)?;
    // SAFETY: this only reckons.
    let space = unsafe { libc::CMSG_SPACE(rights) } as usize;
    // Of eight bytes each, as its headers are aligned so.
    let mut control = vec![0_u64; space.div_ceil(size_of::<u64>())];
    let mut piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: a msghdr is numbers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control[..]);
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_CMSG_CLOEXEC);
    let bytes = again(|| {
        // SAFETY: the header points to the piece and the control buffer, both of which outlive the
        // call and are as long as it says; the descriptor is open while it is borrowed.
        Errno::result(unsafe { libc::recvmsg(fd, &raw mut header, flags) })
    })?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer and said in the header how far; the macros
    // walk within that.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: it is one of the headers just found, aligned as the buffer is.
        let of = unsafe { next.read() };
        if (of.cmsg_level, of.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: this only reckons; behind the header lie as many descriptors as its length
            // says.
            let (data, head) = unsafe { (libc::CMSG_DATA(next), libc::CMSG_LEN(0) as usize) };
            for n in 0..of.cmsg_len.saturating_sub(head) / size_of::<RawFd>() {
                // SAFETY: it is within those; the kernel has just made it for us, and nobody else
                // has it.
                let owned = unsafe {
                    let raw = data.cast::<RawFd>().add(n).read_unaligned();
                    OwnedFd::from_raw_fd(raw)
                };
                fds.push(owned);
            }
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(Taken {
        bytes: usize::try_from(bytes).unwrap_or_default(),
        fds,
        cut: header.msg_flags & libc::MSG_TRUNC != 0,
        lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_for_those_that_have_few() {
        for (fd, most, has, others, goes_without) in [
            (749, 1_000, 900, 9, false),
            (750, 1_000, 99, 9, false),
            (750, 1_000, 100, 9, true),
            (750, 1_000, 999, 0, false),
            (200, 200, 199, 9, false),
        ] {
            let found = exceeds(fd, most, has, others);
            assert_eq!(found, goes_without, "{fd} of {most}, {has} beside {others}");
        }
    }

    #[test]
    fn a_call_that_ended_early_is_made_again() {
        let mut calls = vec![Ok(7), Err(Errno::EINTR), Err(Errno::EINTR)];
        assert_eq!(again(|| calls.pop().unwrap()), Ok(7));
        assert_eq!(again(|| Err::<(), _>(Errno::EAGAIN)), Err(Errno::EAGAIN));
    }
}
