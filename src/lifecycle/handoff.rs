//! An upgrade that refuses no connection: the new process gets the listening sockets of the old
//! one over a Unix socket, and the old one drains once the new one accepts.
//!
//! The old process has the [`HandoffServer`] at a path, where the new one is its [`HandoffClient`].
//! The old one sends a line of JSON, the addresses, with one descriptor for each; the new one
//! answers one byte when it accepts. Until then both have the queue and the old one serves it: a
//! new process that fails changes nothing. Both must run as the same user.

use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use crate::sys::{
    descriptors::{self, MOST_DESCRIPTORS},
    files::share_socket,
};

/// How long the other process may take to say what needs no thought.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long the new process may take until it accepts: it waits for its certificates.
const TO_START: Duration = Duration::from_secs(15 * 60);
/// The longest list of addresses.
const MOST_BYTES: usize = 64 << 10;
/// What the new process says when it accepts.
const ACCEPTING: u8 = b'A';

/// Sockets, with the addresses that they are for.
pub type InheritedSockets = Vec<(String, OwnedFd)>;

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
            let why = format!("it runs as user {}, not as we do", owner.uid());
            return Err(io::Error::other(why));
        }
        socket.set_read_timeout(Some(AT_ONCE))?;
        let sockets = receive(&socket)?;
        Ok(Some((Self(socket), sockets)))
    }

    /// Tells it that we accept: it stops to, and drains.
    pub fn take_over(mut self) {
        // If it has gone meanwhile, there is nobody to be told.
        let _ = self.0.write_all(&[ACCEPTING]);
    }
}

fn receive(socket: &StdUnixStream) -> io::Result<InheritedSockets> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut room = [0; 4096];
        let (read, more) = descriptors::receive(socket.as_fd(), &mut room)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it gave no sockets"));
        }
        line.extend_from_slice(&room[..read]);
        fds.extend(more);
        if line.len() > MOST_BYTES || fds.len() > MOST_DESCRIPTORS {
            return Err(io::Error::other("it gave too much"));
        }
    }
    let addresses: Vec<String> = serde_json::from_slice(&line)?;
    if addresses.len() != fds.len() {
        return Err(io::Error::other("it gave other sockets than it named"));
    }
    Ok(addresses.into_iter().zip(fds).collect())
}

/// Where a process that comes after this one gets its sockets.
#[derive(Debug)]
pub struct HandoffServer {
    listener: UnixListener,
    path: PathBuf,
    offered: Mutex<InheritedSockets>,
    handed_over: AtomicBool,
}

impl HandoffServer {
    /// Waits at `path`, in place of whoever waited there before. Needs the runtime.
    ///
    /// # Errors
    /// If it cannot; the path is not named.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let listener = UnixListener::bind(&beside)?;
        // Between these two nobody but our own user gets anything: see `wait`.
        let placed = share_socket(&beside, 0o600).and_then(|_| fs::rename(&beside, path));
        if let Err(e) = placed {
            let _ = fs::remove_file(&beside);
            return Err(e);
        }
        let handed_over = AtomicBool::new(false);
        Ok(Self { listener, path: path.to_owned(), offered: Mutex::default(), handed_over })
    }

    /// These are the sockets from now on, in place of those before.
    pub fn offer(&self, sockets: InheritedSockets) {
        *self.offered() = sockets;
    }

    fn offered(&self) -> std::sync::MutexGuard<'_, InheritedSockets> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another process accepts on what is offered; its process ID, if that can be
    /// seen.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the sockets with this process.
    pub async fn wait(&self) -> Option<u32> {
        loop {
            let Ok((socket, _)) = self.listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            match self.hand_over(socket).await {
                Ok(pid) => {
                    self.handed_over.store(true, Relaxed);
                    return pid;
                }
                Err(error) => {
                    tracing::warn!(%error, "a process wanted to take over, and has not");
                }
            }
        }
    }

    async fn hand_over(&self, mut socket: UnixStream) -> io::Result<Option<u32>> {
        let other = socket.peer_cred()?;
        if other.uid() != nix::unistd::geteuid().as_raw() {
            let why = format!("user {} may not have our sockets", other.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        // A new socket has room: it takes this at once.
        timeout(AT_ONCE, socket.writable()).await??;
        socket.try_io(Interest::WRITABLE, || self.send(&socket))?;
        let pid = other.pid().and_then(|pid| u32::try_from(pid).ok());
        tracing::info!(pid, "a new process has our sockets, and starts");
        match timeout(TO_START, socket.read_u8()).await? {
            Ok(ACCEPTING) => Ok(pid),
            Ok(_) => Err(io::Error::other("it says what is not understood")),
            Err(_) => Err(io::Error::other("it ended before it accepted")),
        }
    }

    fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let offered = self.offered();
        let addresses: Vec<&str> = offered.iter().map(|(address, _)| address.as_str()).collect();
        let mut line = serde_json::to_vec(&addresses)?;
        line.push(b'\n');
        let fds: Vec<BorrowedFd<'_>> = offered.iter().map(|(_, fd)| fd.as_fd()).collect();
        descriptors::send(socket.as_fd(), &line, &fds)
    }
}

impl Drop for HandoffServer {
    fn drop(&mut self) {
        if !self.handed_over.load(Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
