//! A service manager that a process tells what it does (sd_notify(3)).

use std::{ffi::OsString, os::unix::net::UnixDatagram, time::Instant};

use crate::wait::LIMIT;

pub(crate) struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, folder }
    }

    pub(crate) fn env(&self) -> (&'static str, OsString) {
        ("NOTIFY_SOCKET", self.folder.path().join("notify").into_os_string())
    }

    pub(crate) fn next(&self) -> String {
        let mut room = [0; 4096];
        let n = self.socket.recv(&mut room).expect("the manager is told");
        String::from_utf8_lossy(&room[..n]).into_owned()
    }

    /// The next that begins so; others are passed over.
    pub(crate) fn hears(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let told = self.next();
            if told.starts_with(what) {
                return told;
            }
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}, but {told}");
        }
    }
}
