//! A Unix socket of packets (`SOCK_SEQPACKET`, unix(7)) from the side of who connects: each message
//! comes whole, with at most one descriptor, or is refused.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::descriptors;

/// A connection.
#[derive(Debug)]
pub struct SeqPacket(AsyncFd<OwnedFd>);

/// Why nothing was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// There is nobody any more who could send.
    #[error("the other end has closed the connection")]
    Closed,
    /// The message did not fit, and the rest of it is gone.
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    /// One at most is taken.
    #[error("a message came with more than one file descriptor")]
    TooManyDescriptors,
    /// This process may have no more of them.
    #[error("the file descriptor of a message was lost: too many files are open in this process")]
    DescriptorLost,
    /// What the kernel says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// For so many descriptors there is room, to see that they are too many.
const ROOM: usize = 4;

impl SeqPacket {
    /// Connects to the socket at `path` without waiting, on the current runtime.
    ///
    /// # Errors
    /// What the kernel says: nobody is there, or has no time now.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: what is registered owns its descriptor, which nobody else closes and which stays
        // the same until it is dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket.into(), interest) }?))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As sendmsg(2).
    ///
    /// # Cancel safety
    /// Dropping the future before it has ended sends nothing.
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        let send = |socket: &OwnedFd| descriptors::send(socket.as_fd(), message, &[]);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Receives one message: how long it is, and the descriptor that came with it, which no process
    /// that is started inherits.
    ///
    /// # Errors
    /// [`ReceiveError`]; every descriptor that came is closed then.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn receive(&self, room: &mut [u8]) -> Result<(usize, Option<OwnedFd>), ReceiveError> {
        let most = room.len();
        let take = |socket: &OwnedFd| descriptors::take(socket.as_fd(), room, ROOM);
        let mut got = self.0.async_io(Interest::READABLE, take).await?;
        let fd = got.fds.pop();
        match got.bytes {
            _ if !got.fds.is_empty() => Err(ReceiveError::TooManyDescriptors),
            _ if got.lost => Err(ReceiveError::DescriptorLost),
            _ if got.cut => Err(ReceiveError::TooLong(most)),
            0 => Err(ReceiveError::Closed),
            bytes => Ok((bytes, fd)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// Both ends, connected by way of a file.
    fn pair() -> (SeqPacket, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(1).unwrap();
        let ours = SeqPacket::connect(&path).unwrap();
        (ours, listener.accept().unwrap().0.into())
    }

    /// A pipe whose reading end sees when nobody holds the other one any more.
    fn watched() -> (PipeReader, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (read, write.into())
    }

    fn is_held(mut read: &PipeReader) -> bool {
        let ended = read.read(&mut [0]);
        ended.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn messages_come_whole_with_their_descriptor_and_an_end_is_seen() {
        let (ours, theirs) = pair();
        let (read, write) = watched();
        descriptors::send(theirs.as_fd(), b"one", &[write.as_fd()]).unwrap();
        descriptors::send(theirs.as_fd(), b"three", &[]).unwrap();
        drop(write);
        let mut room = [0; 8];
        let (bytes, fd) = ours.receive(&mut room).await.unwrap();
        assert_eq!(&room[..bytes], b"one");
        let fd = fd.unwrap();
        let flags = fcntl(&fd, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        assert!(is_held(&read));
        drop(fd);
        assert!(!is_held(&read));
        let (bytes, fd) = ours.receive(&mut room).await.unwrap();
        assert!(fd.is_none() && &room[..bytes] == b"three");
        ours.send(b"answer").await.unwrap();
        let answer = descriptors::receive(theirs.as_fd(), &mut room).unwrap();
        assert_eq!(&room[..answer.0], b"answer");
        drop(theirs);
        assert!(matches!(ours.receive(&mut room).await, Err(ReceiveError::Closed)));
        assert!(ours.send(b"late").await.is_err(), "and no SIGPIPE");
    }

    #[tokio::test]
    async fn what_is_too_much_is_refused_and_leaves_no_descriptor_behind() {
        let (ours, theirs) = pair();
        let (read, write) = watched();
        let one = write.as_fd();
        let mut room = [0; 8];
        for (message, fds) in [
            (&b"two"[..], &[one, one][..]),
            (b"more than there is room for", &[one; 9]),
            (b"longer than eight", &[one]),
        ] {
            descriptors::send(theirs.as_fd(), message, fds).unwrap();
            let error = ours.receive(&mut room).await.unwrap_err();
            match fds.len() {
                1 => assert!(matches!(error, ReceiveError::TooLong(8)), "{error}"),
                _ => assert!(matches!(error, ReceiveError::TooManyDescriptors), "{error}"),
            }
        }
        drop(write);
        assert!(!is_held(&read), "all are closed");
        descriptors::send(theirs.as_fd(), b"next", &[]).unwrap();
        assert_eq!(ours.receive(&mut room).await.unwrap().0, 4);
    }

    #[tokio::test]
    async fn who_is_not_there_or_speaks_in_streams_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let none = SeqPacket::connect(&dir.path().join("none")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        let path = dir.path().join("stream");
        let _stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(SeqPacket::connect(&path).is_err());
        assert!(SeqPacket::connect(Path::new(&"x".repeat(200))).is_err());
    }
}
