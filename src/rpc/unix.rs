//! Unix sockets under gRPC.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

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

/// Listens on a Unix socket that `mode` lets others use; a socket that nobody serves any more
/// is replaced.
///
/// # Errors
/// Names the path: something else is there, somebody serves it, or it cannot be made.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let say = |e: io::Error, what: &str| {
        io::Error::new(e.kind(), format!("socket {}: {what}: {e}", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| say(e, "its folder cannot be made"))?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            let is = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(say(is, "something that is no socket is there; name another path"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let is = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(say(is, "another process serves it"));
        }
        std::fs::remove_file(path).map_err(|e| say(e, "a stale one cannot be removed"))?;
    }
    let listener = UnixListener::bind(path).map_err(|e| say(e, "cannot listen"))?;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(|e| say(e, "its mode cannot be set"))?;
    Ok(listener)
}
