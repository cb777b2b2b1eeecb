//! Descriptors that come from another process: from the service manager at start.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// The sockets that the service manager opened for this process, with their names
/// (sd_listen_fds(3)); the variables that told of them are unset, so that no child believes them.
/// For the start of the process: a second call finds nothing.
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
