//! Runs tests in the process's first thread, which libtest does not allow: namespaces are
//! entered before there are other threads. Several processes share the tests, each in namespaces
//! of its own, so that one waits while another works.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, BufReader, Write},
    panic::catch_unwind,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) type Test = (&'static str, fn());

/// The argument that makes a process a worker: it runs the tests that its standard input names.
const WORKER: &str = "--worker";

/// More would share two cores' worth of timing among too many.
const WORKERS_AT_MOST: usize = 4;

/// How long one test may take, and a worker to end. Each bounds its own waits well below that.
const LIMIT: Duration = Duration::from_secs(300);

/// How often a worker that should end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the tests whose name contains the first argument that is no option, then exits.
/// `RUST_TEST_THREADS` says how many processes; with 1, this one runs all of them itself.
///
/// # Panics
/// Two tests have one name.
pub(crate) fn run(tests: &[Test]) -> ! {
    let names: BTreeSet<_> = tests.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), tests.len(), "each scenario has a name of its own");
    if std::env::args().any(|a| a == WORKER) {
        work(tests);
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| name.contains(&filter)).collect();
    if chosen.is_empty() && !filter.is_empty() {
        eprintln!("error: no test has \"{filter}\" in its name");
        std::process::exit(1);
    }
    println!("\nrunning {} tests", chosen.len());
    let workers = workers().min(chosen.len());
    let failed = if workers < 2 {
        enter_namespaces();
        chosen.iter().filter(|test| !passes(test)).count()
    } else {
        share(&chosen, workers)
    };
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, chosen.len() - failed);
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} \
         filtered out\n",
        tests.len() - chosen.len()
    );
    std::process::exit(i32::from(failed > 0));
}

/// Moves into namespaces of our own, as root there, where only loopback is.
fn enter_namespaces() {
    adit::sys::sandbox::enter().expect("root, or user namespaces");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|s| s.success()), "`ip` of the package iproute2 runs");
}

fn workers() -> usize {
    let asked = std::env::var("RUST_TEST_THREADS").ok().and_then(|n| n.parse().ok());
    let cores = || thread::available_parallelism().map_or(1, usize::from).min(WORKERS_AT_MOST);
    asked.unwrap_or_else(cores)
}

fn passes((name, test): &Test) -> bool {
    let ok = catch_unwind(test).is_ok();
    println!("{}{}", verdict_of(name), if ok { OK } else { FAILED });
    ok
}

const OK: &str = "ok";
const FAILED: &str = "FAILED";

fn verdict_of(name: &str) -> String {
    format!("test {name} ... ")
}

/// A worker's life: it ends when its standard input does.
fn work(tests: &[Test]) -> ! {
    enter_namespaces();
    for name in io::stdin().lines().map_while(Result::ok) {
        let test = tests.iter().find(|(n, _)| *n == name).expect("a test of this name");
        passes(test);
    }
    std::process::exit(0);
}

/// Gives each worker a test as soon as it has done the one before. Returns how many failed.
fn share(tests: &[&Test], workers: usize) -> usize {
    let next = Mutex::new(tests.iter());
    let take = || next.lock().expect("no thread panics").next();
    let drive = || {
        let mut failed = 0;
        let mut worker = None;
        while let Some((name, _)) = take() {
            if !worker.get_or_insert_with(Worker::start).run(name) {
                failed += 1;
                // It may have died, or left something behind: the next test has a new one.
                worker = None;
            }
        }
        // One that dies after its last verdict has left something undone.
        failed + usize::from(worker.is_some_and(|worker| !worker.ends_well()))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(drive)).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).sum()
    })
}

struct Worker {
    process: Child,
    input: Option<ChildStdin>,
    /// Its lines. They may go on after its death, if a process of a test holds its output.
    output: Receiver<String>,
}

impl Worker {
    fn start() -> Self {
        let own = std::env::current_exe().expect("the path of this binary");
        let mut process = Command::new(own)
            .arg(WORKER)
            .args(std::env::args().skip(1).filter(|a| a.starts_with('-')))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs once more");
        let input = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().expect("its output is a pipe")).lines();
        let (say, output) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { process, input, output }
    }

    /// Prints what the test prints, up to its verdict.
    fn run(&mut self, name: &str) -> bool {
        let input = self.input.as_mut().expect("it is open until the end");
        let verdict = verdict_of(name);
        // A worker that is dead does not answer either.
        let _ = writeln!(input, "{name}");
        let until = Instant::now() + LIMIT;
        let why = loop {
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("{line}");
                    if let Some(verdict) = line.strip_prefix(&verdict) {
                        return verdict == OK;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break "its process ended".to_owned(),
                Err(RecvTimeoutError::Timeout) => break format!("no verdict within {LIMIT:?}"),
            }
        };
        println!("{verdict}{FAILED} ({why})");
        let _ = self.process.kill();
        false
    }

    /// Whether it ends by itself, without an error, once there are no more tests.
    fn ends_well(mut self) -> bool {
        drop(self.input.take());
        let until = Instant::now() + LIMIT;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() => return true,
                Ok(None) if Instant::now() < until => thread::sleep(LOOK),
                ended => {
                    println!("a worker {FAILED} after its last test: {ended:?}");
                    return false;
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
