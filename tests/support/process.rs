//! A running `adit`: started with its arguments, what it prints kept, ended with its owner.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::wait::{LIMIT, wait_for};

/// Resident memory of a process, KiB.
pub(crate) fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a size")
}

/// What might be set around a test, and adit would read.
const VARIABLES: &[&str] = &[
    "RUST_LOG",
    "KEYSTORE_PATH",
    "KEYSTORE_PASS",
    "CERT_PATH",
    "KEY_PATH",
    "CACERT_PATH",
    "SPIFFE_ENDPOINT_SOCKET",
    "PKCS11_MODULE",
    "PKCS11_TOKEN_LABEL",
    "PKCS11_PIN",
];

/// `adit` with these words as arguments.
pub(crate) fn command(args: &str) -> Command {
    command_of(args.split_whitespace())
}

/// `adit` with these arguments: the one that was built with the test, or that `ADIT_BINARY` names.
pub(crate) fn command_of(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Command {
    let named = std::env::var_os("ADIT_BINARY");
    let mut command = Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_adit").into()));
    command.args(args).stdin(Stdio::null());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The exit code and what was said on standard error, of a command that must end by itself.
pub(crate) fn ended(mut command: Command) -> (i32, String) {
    command.stdout(Stdio::null());
    let adit = Adit::launch_with_stdout(command);
    adit.exit_code_and_log()
}

/// The same of a command line.
pub(crate) fn refused(args: &str) -> (i32, String) {
    ended(command(args))
}

/// A running adit, killed when dropped.
pub(crate) struct Adit {
    child: Child,
    log: Log,
    /// Where it listens, if it was started with [`Adit::start`] or [`Adit::spawn`].
    pub(crate) addr: SocketAddr,
}

impl Adit {
    /// Starts it and waits until it listens.
    pub(crate) fn start(args: impl AsRef<str>) -> Self {
        Self::spawn(command(args.as_ref()))
    }

    /// The same with what else the command was given.
    pub(crate) fn spawn(command: Command) -> Self {
        let mut adit = Self::launch(command);
        let line = adit.logs("listening");
        let listen = line.split("listen=").nth(1).and_then(|l| l.split_whitespace().next());
        let listen = listen.unwrap_or_default().trim_matches('"');
        adit.addr = listen.parse().unwrap_or(adit.addr);
        adit
    }

    /// Starts one that may not come to listen.
    pub(crate) fn launch(mut command: Command) -> Self {
        let log = Log::new();
        command.stdout(log.end());
        Self::run(command, log)
    }

    /// The same, with the standard output that the command has: the log is standard error.
    pub(crate) fn launch_with_stdout(command: Command) -> Self {
        Self::run(command, Log::new())
    }

    fn run(mut command: Command, log: Log) -> Self {
        let child = command.stderr(log.end()).spawn().expect("the program runs");
        Self { child, log, addr: SocketAddr::from(([0, 0, 0, 0], 0)) }
    }

    /// Waits for a line that has all of these, separated by ` … `, and returns it.
    #[track_caller]
    pub(crate) fn logs(&self, parts: &str) -> String {
        self.logs_since(0, parts)
    }

    /// The same, where the first `seen` lines do not count.
    #[track_caller]
    pub(crate) fn logs_since(&self, seen: usize, parts: &str) -> String {
        self.line_since(seen, parts).1
    }

    /// The same with its number, counted from 0.
    #[track_caller]
    pub(crate) fn line_since(&self, mut seen: usize, parts: &str) -> (usize, String) {
        let all: Vec<&str> = parts.split(" … ").collect();
        let has_all = |line: &String| all.iter().all(|part| line.contains(part));
        wait_for(&format!("a log line with {parts:?}"), LIMIT, || {
            self.log.with(|lines| {
                let from = seen.min(lines.len());
                let found = lines[from..].iter().position(has_all);
                seen = lines.len().max(seen);
                found.map(|at| (from + at, lines[from + at].clone()))
            })
        })
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.log.with(<[String]>::len)
    }

    /// How many lines have this.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log.with(|lines| lines.iter().filter(|line| line.contains(text)).count())
    }

    /// All that it has printed.
    pub(crate) fn log(&self) -> String {
        self.log.with(|lines| lines.iter().flat_map(|line| [line, "\n"]).collect())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal is sent");
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The same for system calls.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.id()).expect("a process ID"))
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// Its resident memory, KiB.
    pub(crate) fn resident(&self) -> usize {
        resident(self.id())
    }

    /// How many of its threads have this name.
    pub(crate) fn threads(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        let named = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        tasks.flatten().filter(named).count()
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        wait_for("adit ends", LIMIT, || self.child.try_wait().expect("our child"))
    }

    /// The same; the exit code, -1 if it had none.
    #[track_caller]
    pub(crate) fn exit_code(mut self) -> i32 {
        self.ends().code().unwrap_or(-1)
    }

    /// The same with all that it has printed.
    #[track_caller]
    pub(crate) fn exit_code_and_log(mut self) -> (i32, String) {
        (self.ends().code().unwrap_or(-1), self.log())
    }

    /// Waits for its end, and returns all it logged.
    #[track_caller]
    pub(crate) fn rest_of_log(self) -> String {
        self.exit_code_and_log().1
    }

    /// Ends it in order; the exit code.
    #[track_caller]
    pub(crate) fn stop(self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.exit_code()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Adit {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            self.log.with(|lines| {
                let end = &lines[lines.len().saturating_sub(60)..];
                eprintln!("the end of the log of adit, process {}:\n{}", self.id(), end.join("\n"));
            });
        }
    }
}

/// What a process prints: a file in memory, so that it is whole once the process has ended, and
/// neither a late reader nor a busy disk makes it wait.
struct Log {
    file: File,
    read: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    /// Of a line whose end is to come.
    rest: Vec<u8>,
    /// Where the next byte is in the file.
    at: u64,
}

impl Log {
    fn new() -> Self {
        let file = memfd_create("log", MFdFlags::MFD_CLOEXEC).expect("a log file");
        Self { file: file.into(), read: Mutex::default() }
    }

    /// Where the process writes.
    fn end(&self) -> Stdio {
        self.file.try_clone().expect("a descriptor").into()
    }

    /// The lines that there are now.
    fn with<T>(&self, look: impl FnOnce(&[String]) -> T) -> T {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = [0; 16 * 1024];
        while let Ok(n @ 1..) = self.file.read_at(&mut room, read.at) {
            read.at += n as u64;
            for &byte in &room[..n] {
                if byte == b'\n' {
                    let line = std::mem::take(&mut read.rest);
                    read.lines.push(String::from_utf8_lossy(&line).into_owned());
                } else {
                    read.rest.push(byte);
                }
            }
        }
        look(&read.lines)
    }
}
