//! Unix sockets under gRPC.

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::{
    lifecycle::{Listeners, endpoint},
    sys::files::share_socket,
};

/// How long a socket may take to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// A channel to a Unix socket, which connects at the first call and again when it broke.
#[must_use]
pub fn connect(path: &Path) -> Channel {
    let path: PathBuf = path.into();
    let endpoint = Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

/// A Unix socket that we made. Dropping it takes its file away, unless another is there by now.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<UnixListener>,
    listeners: Arc<Listeners>,
    /// What it is called among them.
    name: String,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// Listens on a Unix socket that `mode` lets others use: the one of the process before this one,
/// if it gave it; a socket that nobody serves any more is replaced.
///
/// # Errors
/// Names the path: something else is there, somebody serves it, or it cannot be made.
pub fn listen(path: &Path, mode: u32, listeners: &Arc<Listeners>) -> io::Result<Listener> {
    let name = endpoint(path.display());
    let (socket, file) = match listeners.take(&name).pop() {
        Some(given) => {
            let socket = UnixListener::from_std(given.into())?;
            (socket, share_socket(path, mode)?)
        }
        None => open(path, mode)?,
    };
    let socket = Arc::new(socket);
    listeners.offer(name.clone(), &socket);
    Ok(Listener { socket, listeners: Arc::clone(listeners), name, path: path.into(), file })
}

fn open(path: &Path, mode: u32) -> io::Result<(UnixListener, (u64, u64))> {
    let say = |e: io::Error, what: &str| {
        io::Error::new(e.kind(), format!("socket {}: {what}: {e}", crate::identity::shown(path)))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| say(e, "its directory cannot be created"))?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            let is = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(say(is, "something that is not a socket exists there; use another path"));
        }
        if !is_stale(path)
            .map_err(|e| say(e, "cannot tell whether another process is listening there"))?
        {
            let is = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(say(is, "another process is listening there"));
        }
        std::fs::remove_file(path).map_err(|e| say(e, "the stale socket cannot be removed"))?;
    }
    let socket = UnixListener::bind(path).map_err(|e| say(e, "cannot listen"))?;
    let file = share_socket(path, mode).map_err(|e| say(e, "its permissions cannot be set"))?;
    Ok((socket, file))
}

/// Whether nobody serves a socket any more: only the kernel's refusal says so, at once. Whoever
/// does not take connections now (its backlog is full), or takes no streams, serves it.
fn is_stale(path: &Path) -> io::Result<bool> {
    let caller = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    caller.set_nonblocking(true)?;
    match caller.connect(&socket2::SockAddr::unix(path)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        _ => Ok(false),
    }
}

impl Listener {
    /// The next connection, once this process accepts. Cancel safe.
    ///
    /// # Errors
    /// The kernel's; the next one may succeed.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listeners.accepting().await;
        self.socket.accept().await.map(|(socket, _)| socket)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.listeners.is_handed_over(&self.name) || !self.listeners.is_accepting() {
            return; // it is another process's
        }
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener as Std};

    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_serves_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [full, datagrams, stale] = ["full", "datagrams", "stale"].map(|n| dir.path().join(n));
        let busy =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        busy.bind(&socket2::SockAddr::unix(&full).unwrap()).unwrap();
        busy.listen(0).unwrap();
        // It accepts nobody: its backlog is full with the first.
        let _first = std::os::unix::net::UnixStream::connect(&full).unwrap();
        let _other = UnixDatagram::bind(&datagrams).unwrap();
        for served in [&full, &datagrams] {
            let error = listen(served, 0o600, &Arc::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            assert!(served.exists());
        }
        drop(Std::bind(&stale).unwrap());
        assert!(listen(&stale, 0o600, &Arc::default()).is_ok());
    }
}
