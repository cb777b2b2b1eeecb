//! A service manager that a process tells what it does (sd_notify(3)).

use std::{
    ffi::OsString,
    net::Shutdown,
    os::unix::net::UnixDatagram,
    sync::{Arc, mpsc},
    time::Instant,
};

use crate::wait::LIMIT;

pub(crate) struct Manager {
    socket: Arc<UnixDatagram>,
    told: mpsc::Receiver<String>,
    folder: tempfile::TempDir,
}

impl Manager {
    /// As every manager it takes all that comes at once: the kernel keeps few datagrams, and
    /// whoever tells more waits.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = Arc::new(UnixDatagram::bind(folder.path().join("notify")).unwrap());
        let (tell, told) = mpsc::channel();
        let taking = Arc::clone(&socket);
        std::thread::spawn(move || {
            let mut room = [0; 4096];
            while let Ok(n @ 1..) = taking.recv(&mut room) {
                let _ = tell.send(String::from_utf8_lossy(&room[..n]).into_owned());
            }
        });
        Self { socket, told, folder }
    }

    pub(crate) fn env(&self) -> (&'static str, OsString) {
        ("NOTIFY_SOCKET", self.folder.path().join("notify").into_os_string())
    }

    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.told.recv_timeout(LIMIT).expect("the manager is told")
    }

    /// The next that begins so; others are passed over.
    #[track_caller]
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

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
