//! A running adit with a Workload API, ended when dropped.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use tonic::{Request, transport::Channel};

pub(crate) struct Served {
    dir: tempfile::TempDir,
    adit: Child,
}

impl Served {
    /// With these entries, one a line.
    pub(crate) fn start(entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, entries);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let adit = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["run", "-c"])
            .arg(dir.path().join("mesh.yaml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let served = Self { dir, adit };
        served.wait("Workload API served");
        served
    }

    /// Replaces the entries and waits until they are in force.
    pub(crate) fn edit(&self, entries: &str) {
        let before = self.log().matches("configuration reloaded").count();
        write(&self.dir, entries);
        let start = Instant::now();
        while self.log().matches("configuration reloaded").count() == before {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn channel(&self) -> Channel {
        adit::rpc::connect(&self.socket())
    }

    /// How many descriptors adit has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.adit.id())).unwrap().count()
    }

    fn wait(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.adit.kill();
        let _ = self.adit.wait();
    }
}

fn write(dir: &tempfile::TempDir, entries: &str) {
    let at = dir.path().display();
    let text = format!(
        "trustDomain: example.org\nca: {{ embedded: {{ dir: {at}/ca }} }}\n\
         capture: {{ rules: none }}\nworkloadApi:\n  socket: {at}/agent.sock\n  entries:\n{entries}\n"
    );
    fs::write(dir.path().join("mesh.tmp"), text).unwrap();
    fs::rename(dir.path().join("mesh.tmp"), dir.path().join("mesh.yaml")).unwrap();
}

/// A request with these values of the security header.
pub(crate) fn with_header<M>(message: M, values: &[&'static str]) -> Request<M> {
    let mut request = Request::new(message);
    for value in values {
        request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
    }
    request
}
