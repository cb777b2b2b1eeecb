//! A running adit with a Workload API, ended when dropped.

use std::{fs, path::PathBuf, process::Command};

use nix::sys::signal::Signal;
use tonic::{Request, transport::Channel};

use crate::{
    process::{Adit, command_of},
    wait::{LIMIT, wait_until},
};

pub(crate) struct Served {
    dir: tempfile::TempDir,
    adit: Adit,
}

impl Served {
    /// With these entries, one a line; further sections of the mesh file may follow.
    pub(crate) fn start(entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, entries);
        let adit = run(&dir);
        Self { dir, adit }
    }

    /// Ends it as a service manager does, or as a crash does.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.adit.signal(signal);
        self.adit.ends();
    }

    /// Starts it again.
    pub(crate) fn again(&mut self) {
        self.adit = run(&self.dir);
    }

    /// Replaces the entries and waits until they are in force.
    pub(crate) fn edit(&self, entries: &str) {
        let taken = || self.adit.count("configuration reloaded");
        let before = taken();
        write(&self.dir, entries);
        wait_until("the entries are in force", LIMIT, || taken() > before);
    }

    /// Runs adit with these words, on its CA.
    pub(crate) fn ca(&self, words: &[&str]) {
        let mut adit = command_of(["ca"]);
        adit.arg(words[0]).arg("--dir").arg(self.dir.path().join("ca"));
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

    /// How often its log has this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.adit.count(text)
    }

    /// It may have so many descriptors open, and no more.
    pub(crate) fn limit_descriptors(&self, most: usize) {
        let (pid, limit) = (self.adit.id().to_string(), format!("--nofile={most}:"));
        let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
        assert!(done.is_ok_and(|s| s.success()), "`prlimit` of the package util-linux runs");
    }

    /// How many descriptors adit has open.
    pub(crate) fn descriptors(&self) -> usize {
        self.adit.descriptors()
    }
}

fn run(dir: &tempfile::TempDir) -> Adit {
    let file = dir.path().join("mesh.yaml");
    let adit = Adit::launch(command_of(["run".as_ref(), "-c".as_ref(), file.as_os_str()]));
    adit.logs("serving the Workload API");
    adit
}

fn write(dir: &tempfile::TempDir, entries: &str) {
    let at = dir.path().display();
    let text = format!(
        "trustDomain: example.org\nca: {{ embedded: {{ dir: {at}/ca }} }}\n\
         capture: {{ rules: none }}\nworkloadApi:\n  socket: {at}/agent.sock\n  entries:\n\
         {entries}\n"
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
