//! A running adit with a Workload API, ended when dropped.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tonic::{Request, transport::Channel};

pub(crate) struct Served {
    dir: tempfile::TempDir,
    adit: Child,
}

impl Served {
    /// With these entries, one a line; further sections of the mesh file may follow.
    pub(crate) fn start(entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, entries);
        let adit = run(&dir);
        let served = Self { dir, adit };
        served.wait("Workload API served");
        served
    }

    /// Ends it as a service manager does, or as a crash does.
    pub(crate) fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.adit.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        self.adit.wait().unwrap();
    }

    /// Starts it again.
    pub(crate) fn again(&mut self) {
        self.adit = run(&self.dir);
        self.wait("Workload API served");
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

    /// Runs adit with these words, on its CA.
    pub(crate) fn ca(&self, words: &[&str]) {
        let mut adit = Command::new(env!("CARGO_BIN_EXE_adit"));
        adit.arg("ca").arg(words[0]).arg("--dir").arg(self.dir.path().join("ca"));
        let done = adit.args(&words[1..]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.file("agent.sock")
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

fn run(dir: &tempfile::TempDir) -> Child {
    let log = fs::File::create(dir.path().join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["run", "-c"])
        .arg(dir.path().join("mesh.yaml"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
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
