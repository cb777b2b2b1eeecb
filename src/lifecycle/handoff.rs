//! An upgrade that refuses no connection: the new process gets the listening sockets of the old
//! one over a Unix socket, and the old one drains once the new one accepts.
//!
//! The old process has the [`HandoffServer`] at a path, where the new one is its [`HandoffClient`].
//! The old one sends a line of JSON, the addresses, with one descriptor for each; the new one
//! answers one byte when it accepts, and may say in a line of JSON what it keeps of what the old
//! one leaves behind. Until then both have the queue and the old one serves it: a new process that
//! fails changes nothing. Both must run as the same user.

mod listeners;

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::MetadataExt as _, net::UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    time::timeout,
};

pub use listeners::{InheritedSockets, Listeners, endpoint};

use super::AcceptBackoff;
use crate::sys::{
    descriptors::{self, MOST_DESCRIPTORS},
    files::share_socket,
};

/// How long the other process may take to say what needs no thought.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long the new process may take until it accepts: it waits for its certificates.
const TO_START: Duration = Duration::from_secs(15 * 60);
/// The longest list of addresses, and the most sockets.
const MOST_BYTES: usize = 4 << 20;
const MOST_SOCKETS: usize = 64 << 10;
/// As much of the list goes into one message: the kernel takes that whole or not at all.
const PIECE: usize = 16 << 10;
/// What the new process says when it accepts.
const ACCEPTING: u8 = b'A';

/// Speaks with the process that listened before this one, and still does.
#[derive(Debug)]
pub struct HandoffClient(StdUnixStream);

impl HandoffClient {
    /// Asks the process at `path` for its sockets, with the addresses that it has them for;
    /// `None` if there is no such process. Blocks, at most some seconds.
    ///
    /// # Errors
    /// If there is one and it does not give them; the path is not named.
    pub fn find(path: &Path) -> io::Result<Option<(Self, InheritedSockets)>> {
        let socket = match StdUnixStream::connect(path) {
            Ok(socket) => socket,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let owner = getsockopt(&socket, PeerCredentials)?;
        if owner.uid() != nix::unistd::geteuid().as_raw() {
            let why = format!("it runs as user {}, not as the user of this process", owner.uid());
            return Err(io::Error::other(why));
        }
        socket.set_read_timeout(Some(AT_ONCE))?;
        let sockets = receive(&socket)?;
        Ok(Some((Self(socket), sockets)))
    }

    /// To be waited for on this runtime.
    ///
    /// # Errors
    /// The runtime cannot poll it.
    pub fn awaited(self) -> io::Result<AwaitedHandoff> {
        self.0.set_nonblocking(true)?;
        UnixStream::from_std(self.0).map(AwaitedHandoff)
    }
}

/// A [`HandoffClient`] on a runtime.
#[derive(Debug)]
pub struct AwaitedHandoff(UnixStream);

impl AwaitedHandoff {
    /// Waits until the other process waits for this one no longer: it has ended, or is about to.
    /// Cancel safe.
    pub async fn gone(&self) {
        loop {
            if self.0.readable().await.is_err() {
                return;
            }
            match self.0.try_read(&mut [0]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }

    /// Tells it that we accept, and what we keep of what it would leave behind; it stops to accept,
    /// and drains.
    pub async fn tell(&mut self, keeps: &[String]) {
        let mut message = vec![ACCEPTING];
        message.extend(serde_json::to_vec(keeps).unwrap_or_default());
        message.push(b'\n');
        // If it has gone meanwhile, there is nobody to be told.
        let _ = timeout(AT_ONCE, self.0.write_all(&message)).await;
    }

    /// Waits, at most some seconds, until it has let go of all that we do not keep.
    pub async fn let_go(mut self) {
        let _ = timeout(AT_ONCE, self.0.read(&mut [0])).await;
    }
}

fn receive(socket: &StdUnixStream) -> io::Result<InheritedSockets> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut room = [0; 4096];
        let (read, more) = descriptors::receive(socket.as_fd(), &mut room)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it sent no sockets"));
        }
        line.extend_from_slice(&room[..read]);
        fds.extend(more);
        if line.len() > MOST_BYTES || fds.len() > MOST_SOCKETS {
            return Err(io::Error::other("its message is too long"));
        }
    }
    let addresses: Vec<String> = serde_json::from_slice(&line)?;
    if addresses.len() != fds.len() {
        return Err(io::Error::other("the sockets it sent do not match the names it sent"));
    }
    Ok(addresses.into_iter().zip(fds).collect())
}

/// Where a process that comes after this one gets its sockets.
#[derive(Debug)]
pub struct HandoffServer {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of what we have put there.
    file: (u64, u64),
    offered: Mutex<Offered>,
    /// Whether a process has our sockets, and has not said yet that it accepts.
    under_way: AtomicBool,
    handed_over: AtomicBool,
}

/// What a process that comes gets.
#[derive(Debug)]
pub enum Offered {
    /// These sockets.
    Sockets(InheritedSockets),
    /// Those that are open then.
    Listeners(Arc<Listeners>),
}

impl From<InheritedSockets> for Offered {
    fn from(sockets: InheritedSockets) -> Self {
        Self::Sockets(sockets)
    }
}

impl From<&Arc<Listeners>> for Offered {
    fn from(listeners: &Arc<Listeners>) -> Self {
        Self::Listeners(Arc::clone(listeners))
    }
}

/// The process that accepts in our place.
#[derive(Debug)]
pub struct Successor {
    /// Its process ID, if that can be seen.
    pub pid: Option<u32>,
    /// What it keeps of what we would leave behind, if it says so.
    pub keeps: Option<Vec<String>>,
    /// It waits until this is dropped.
    _waits: UnixStream,
}

impl HandoffServer {
    /// Waits at `path`, in place of whoever waited there before, for a process that gets what is
    /// `offered`. Needs the runtime.
    ///
    /// # Errors
    /// If it cannot; the path is not named.
    pub fn open(path: &Path, offered: Offered) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let listener = UnixListener::bind(&beside)?;
        // Between these two nobody but our own user gets anything: see `wait`.
        let share = || share_socket(&beside, 0o600);
        let placed = share().and_then(|file| fs::rename(&beside, path).map(|()| file));
        let file = placed.inspect_err(|_| drop(fs::remove_file(&beside)))?;
        let offered = Mutex::new(offered);
        let (under_way, handed_over) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { listener, path: path.to_owned(), file, offered, under_way, handed_over })
    }

    /// This is what a process gets from now on, in place of what was offered before.
    pub fn offer(&self, offered: Offered) {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = offered;
    }

    fn offered(&self) -> io::Result<InheritedSockets> {
        match &*self.offered.lock().unwrap_or_else(PoisonError::into_inner) {
            Offered::Sockets(all) => {
                all.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?))).collect()
            }
            Offered::Listeners(all) => all.duplicates(),
        }
    }

    /// Whether a process has our sockets that has not said yet that it accepts.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Relaxed)
    }

    /// Waits until another process accepts on what is offered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the sockets with this process.
    pub async fn wait(&self) -> Successor {
        let mut backoff = AcceptBackoff::new("takeover socket");
        loop {
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    backoff.failed(&error).await;
                    continue;
                }
            };
            backoff.succeeded();
            let handed = self.hand_over(socket).await;
            match handed {
                // It stays under way: what this process does from here on is by its leave.
                Ok(successor) => {
                    self.handed_over.store(true, Relaxed);
                    return successor;
                }
                Err(error) => {
                    self.under_way.store(false, Relaxed);
                    tracing::warn!(%error, "a process asked to take over, but did not");
                }
            }
        }
    }

    async fn hand_over(&self, mut socket: UnixStream) -> io::Result<Successor> {
        let other = socket.peer_cred()?;
        if other.uid() != nix::unistd::geteuid().as_raw() {
            let why = format!("user {} is not allowed to take over the sockets", other.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        timeout(AT_ONCE, self.send(&socket)).await??;
        self.under_way.store(true, Relaxed);
        let pid = other.pid().and_then(|pid| u32::try_from(pid).ok());
        tracing::info!(pid, "passed the sockets to a new process, which is starting");
        match timeout(TO_START, socket.read_u8()).await? {
            Ok(ACCEPTING) => {
                // What it does not say in time it does not say: it accepts.
                let keeps = timeout(AT_ONCE, line(&mut socket)).await.ok().flatten();
                let keeps = keeps.and_then(|line| serde_json::from_slice(&line).ok());
                Ok(Successor { pid, keeps, _waits: socket })
            }
            Ok(_) => Err(io::Error::other("it sent an unknown message")),
            Err(_) => Err(io::Error::other("it exited before it accepted connections")),
        }
    }

    /// In as many messages as the sockets need, each with a piece of the line.
    async fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let offered = self.offered()?;
        let addresses: Vec<&str> = offered.iter().map(|(address, _)| address.as_str()).collect();
        let mut text = serde_json::to_vec(&addresses)?;
        text.push(b'\n');
        let fds: Vec<BorrowedFd<'_>> = offered.iter().map(|(_, fd)| fd.as_fd()).collect();
        let messages = fds.len().div_ceil(MOST_DESCRIPTORS).max(text.len().div_ceil(PIECE));
        let (piece, some) = (text.len().div_ceil(messages), fds.len().div_ceil(messages));
        let mut fds = fds.chunks(some.max(1));
        for piece in text.chunks(piece) {
            let fds = fds.next().unwrap_or_default();
            loop {
                socket.writable().await?;
                let send = || descriptors::send(socket.as_fd(), piece, fds);
                match socket.try_io(Interest::WRITABLE, send) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    sent => break sent?,
                }
            }
        }
        match fds.next() {
            None => Ok(()),
            Some(_) => Err(io::Error::other("there are more sockets than names")),
        }
    }
}

/// A line, if one comes before the end.
async fn line(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() > MOST_BYTES || from.read_buf(&mut line).await.ok()? == 0 {
            return None;
        }
    }
    Some(line)
}

impl Drop for HandoffServer {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path).map(|is| (is.dev(), is.ino()));
        if !self.handed_over.load(Relaxed) && there.is_ok_and(|is| is == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::OwnedFd};

    use super::*;

    #[tokio::test]
    async fn more_sockets_than_a_message_takes_arrive_in_order_and_the_keeps_go_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        let open = |n: usize| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            (format!("{n} of many sockets, and this one has port {port}"), OwnedFd::from(socket))
        };
        let sockets: InheritedSockets = (0..300).map(open).collect();
        let server = HandoffServer::open(&path, sockets.into()).unwrap();
        let of = path.clone();
        let find = tokio::task::spawn_blocking(move || HandoffClient::find(&of));
        let next = async {
            let (client, sockets) = find.await.unwrap().unwrap().unwrap();
            assert_eq!(sockets.len(), 300);
            for (n, (name, socket)) in sockets.into_iter().enumerate() {
                let port = TcpListener::from(socket).local_addr().unwrap().port();
                assert_eq!(name, format!("{n} of many sockets, and this one has port {port}"));
            }
            assert!(server.is_under_way());
            let mut previous = client.awaited().unwrap();
            previous.tell(&["this".to_owned()]).await;
            previous.let_go().await;
        };
        let (successor, ()) = tokio::join!(async { server.wait().await.keeps }, next);
        assert_eq!(successor, Some(vec!["this".to_owned()]));
        drop(server);
        assert!(path.exists(), "the path is the successor's");
    }
}
