//! A stream between the captured pods and one between pods that nobody captures, of small messages
//! that say when they were sent. What the machine does to the second it does to the first as well.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nix::unistd::gettid;

use crate::lab::Lab;

/// Between two messages. With 100 us the messages alone keep a quarter of two cores busy.
const EVERY: Duration = Duration::from_micros(200);
/// What was sent so many nanoseconds before is of that time too.
const AROUND: u64 = 10_000_000;
/// The application's.
const PORT: u16 = 9000;

pub(crate) struct Streams {
    begun: Instant,
    over: Arc<AtomicBool>,
    /// When each message was sent, and how long it was on its way; nanoseconds.
    through: Arc<Mutex<Vec<[u64; 2]>>>,
    beside: Arc<Mutex<Vec<[u64; 2]>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Microseconds that messages were on their way.
pub(crate) struct Delays {
    pub(crate) longest: f64,
    pub(crate) p99: f64,
}

impl Streams {
    pub(crate) fn start(lab: &Lab) -> Self {
        let begun = Instant::now();
        let mut all = Self {
            begun,
            over: Arc::default(),
            through: Arc::default(),
            beside: Arc::default(),
            threads: Vec::new(),
        };
        let through = connected(lab, ("web", "db", "10.77.0.2"));
        let beside = connected(lab, ("near", "far", "10.77.0.4"));
        for (into, from) in [(&all.through, through.1), (&all.beside, beside.1)] {
            let into = Arc::clone(into);
            all.threads.push(thread::spawn(move || receive(from, begun, &into)));
        }
        let (over, mut both) = (Arc::clone(&all.over), [through.0, beside.0]);
        all.threads.push(thread::spawn(move || {
            urgent();
            let mut due = begun.elapsed();
            while !over.load(SeqCst) {
                for stream in &mut both {
                    let now = nanoseconds(begun);
                    stream.write_all(&now.to_be_bytes()).expect("the stream goes on");
                }
                // One after the other, however late: what is late is not made up for.
                due = (due + EVERY).max(begun.elapsed());
                sleep(due.saturating_sub(begun.elapsed()));
            }
        }));
        all
    }

    /// Through the node.
    pub(crate) fn through(&self, since: Instant) -> Delays {
        delays(&self.through, since - self.begun)
    }

    /// Not through the node.
    pub(crate) fn beside(&self, since: Instant) -> Delays {
        delays(&self.beside, since - self.begun)
    }

    /// How much longer something was on its way through the node than all that was sent beside it
    /// at that time; microseconds. Where the whole machine stood still, both did.
    pub(crate) fn of_its_own(&self, since: Instant) -> f64 {
        let since = u64::try_from((since - self.begun).as_nanos()).expect("centuries");
        let (through, beside) = (self.through.lock().unwrap(), self.beside.lock().unwrap());
        let longer = through.iter().filter(|[sent, _]| *sent >= since).map(|[sent, took]| {
            let from = beside.partition_point(|[other, _]| *other + AROUND < *sent);
            let others = beside[from..].iter().take_while(|[other, _]| *other <= sent + took);
            took.saturating_sub(others.map(|[_, took]| *took).max().unwrap_or(0))
        });
        longer.max().unwrap_or(0) as f64 / 1e3
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Both ends of a connection from a pod to another.
fn connected(lab: &Lab, (from, to, address): (&str, &str, &str)) -> (TcpStream, TcpStream) {
    let listener = lab.listen(to, PORT);
    let near = lab.connect(from, &format!("{address}:{PORT}")).expect("connected");
    let (far, _) = listener.accept().expect("accepted");
    for end in [&near, &far] {
        end.set_nodelay(true).expect("set");
        end.set_read_timeout(None).expect("set");
    }
    (near, far)
}

fn receive(mut from: TcpStream, begun: Instant, into: &Mutex<Vec<[u64; 2]>>) {
    urgent();
    let mut sent = [0; 8];
    while from.read_exact(&mut sent).is_ok() {
        let (sent, now) = (u64::from_be_bytes(sent), nanoseconds(begun));
        into.lock().expect("nobody panicked").push([sent, now - sent]);
    }
}

fn nanoseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).expect("centuries")
}

/// What is measured is the node, not when this thread has its turn. Where that may not be asked
/// for, the stream beside shows what it is worth.
fn urgent() {
    let own = gettid().to_string();
    let _ = Command::new("chrt").args(["--fifo", "--pid", "50", &own]).output();
}

fn delays(all: &Mutex<Vec<[u64; 2]>>, since: Duration) -> Delays {
    let since = u64::try_from(since.as_nanos()).expect("centuries");
    let all = all.lock().expect("nobody panicked");
    let mut took: Vec<u64> =
        all.iter().filter(|[sent, _]| *sent >= since).map(|[_, took]| *took).collect();
    took.sort_unstable();
    assert!(!took.is_empty(), "nothing came");
    let us = |at: usize| took[at] as f64 / 1e3;
    Delays { longest: us(took.len() - 1), p99: us(took.len() * 99 / 100) }
}
