//! The real binary: started with flags, its log read, ended by its own id.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long anything may take that ends in a test; a machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(args.split_whitespace()).stdin(Stdio::null());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The exit code and what was said on stderr, of a command that must end by itself.
pub(crate) fn ended(mut command: Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = said.read_to_string(&mut text);
        text
    });
    let status = exit_of(&mut child);
    (status.code().unwrap_or(-1), reading.join().unwrap())
}

/// The same of a command line.
pub(crate) fn refused(args: &str) -> (i32, String) {
    ended(command(args))
}

fn exit_of(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("adit has not ended within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

type Lines = Arc<(Mutex<Vec<String>>, Condvar)>;

/// A running adit, killed when dropped.
pub(crate) struct Adit {
    child: Child,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
    /// Where it listens.
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
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Lines::default();
        let out = follow(child.stdout.take().unwrap(), Arc::clone(&lines));
        let err = follow(child.stderr.take().unwrap(), Arc::clone(&lines));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, lines, readers: vec![out, err], addr: nowhere }
    }

    /// Waits for a line that has all of these, separated by ` … `, and returns it.
    pub(crate) fn logs(&self, parts: &str) -> String {
        self.logs_since(0, parts)
    }

    /// The same, where the first `seen` lines do not count.
    pub(crate) fn logs_since(&self, seen: usize, parts: &str) -> String {
        let parts: Vec<&str> = parts.split(" … ").collect();
        let begun = Instant::now();
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            let found = lines[seen.min(lines.len())..]
                .iter()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            if let Some(line) = found {
                return line.clone();
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let Some(left) = left else {
                let all = lines.join("\n");
                drop(lines);
                panic!("no {parts:?} in:\n{all}");
            };
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// How many lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.lines.0.lock().unwrap().len()
    }

    /// How many lines have this.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.lines.0.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn exit_code(mut self) -> i32 {
        exit_of(&mut self.child).code().unwrap_or(-1)
    }

    /// Waits for its end, and returns all it logged.
    pub(crate) fn rest_of_log(mut self) -> String {
        exit_of(&mut self.child);
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        self.lines.0.lock().unwrap().join("\n")
    }

    /// Ends it in order.
    pub(crate) fn stop(self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.exit_code()
    }
}

impl Drop for Adit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!(
                "the end of its log:\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
    }
}

fn follow(from: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.0.lock().unwrap().push(line);
            lines.1.notify_all();
        }
    })
}

/// Waits until it is so.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
