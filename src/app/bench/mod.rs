//! `adit bench`: a load generator with a far end of its own, so that users can repeat our
//! figures against any proxy, or none.
//!
//! The far end ([`far`]) listens behind the proxy; the load ([`load`]) connects through it.
//! What they say is in [`wire`]; when operations are due in [`pace`].

mod far;
mod io;
mod load;
mod pace;
mod report;
mod wire;

use std::{
    io::{Write as _, stderr},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use load::{Counts, Job, Shared};
use report::{Outcome, Part};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use wire::Kind;

use crate::{
    lifecycle::Tasks,
    net::{Address, cannot_listen},
};
pub(crate) use wire::MOST_SIZE;

/// How long an address of several has to answer.
const ANSWER: Duration = Duration::from_secs(2);

impl Mode {
    /// Whether it is of messages (or connections) that can be due at a rate.
    #[must_use]
    pub fn is_paced(self) -> bool {
        matches!(self, Self::Ping | Self::Churn | Self::Mixed)
    }
}

/// What the load does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Mode {
    /// Bytes to the far end, as fast as they go
    BulkUp,
    /// Bytes from the far end
    BulkDown,
    /// Both at once on each connection
    Duplex,
    /// One message there and back after another
    Ping,
    /// A new connection for each message
    Churn,
    /// Connections that say nothing between the first and the last second
    Idle,
    /// Readers that take --read-rate bytes per second
    Slow,
    /// Small messages beside bulk streams and readers that stall
    Mixed,
}

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the far end, or the proxy before it, listens.
    pub target: SocketAddr,
    /// What it does.
    pub mode: Mode,
    /// How many connections (mixed: for the small messages).
    pub connections: usize,
    /// How long to measure, after `warmup`.
    pub time: Duration,
    /// How long the load runs before the measurement starts.
    pub warmup: Duration,
    /// Of a message, in bytes.
    pub size: u32,
    /// Messages (or connections) per second; none: as fast as the answers come.
    pub rate: Option<f64>,
    /// Bytes per second of a slow reader.
    pub read_rate: u64,
    /// Readers that stall (mixed).
    pub stalled: usize,
    /// Bulk streams (mixed).
    pub bulk: usize,
    /// Measure the small messages alone first (mixed).
    pub baseline: bool,
    /// Threads.
    pub workers: usize,
    /// Whether every byte is checked.
    pub verify: bool,
    /// Whether a bar shows how far it is.
    pub progress: bool,
}

/// What came of a load.
#[derive(Clone, Debug)]
pub struct Measured {
    /// For scripts.
    pub json: Value,
    /// For people.
    pub table: String,
    /// Whether something was done and nothing failed.
    pub sound: bool,
}

/// Listens on `addrs` and serves loads until SIGTERM or SIGINT.
///
/// # Errors
/// If an address cannot be listened on.
pub fn serve(addrs: &[SocketAddr], workers: usize) -> anyhow::Result<()> {
    // Our threads share an address, and a second process could share it too, unnoticed.
    let free = |addr: &SocketAddr| std::net::TcpListener::bind(addr).map(drop);
    for addr in addrs.iter().filter(|_| workers > 1) {
        free(addr).map_err(|e| anyhow!(cannot_listen(addr, "--listen", &e)))?;
    }
    let shared = workers > 1;
    let others = (1..workers).map(|_| {
        let addrs = addrs.to_vec();
        std::thread::spawn(move || listen(&addrs, shared))
    });
    // They end with the process.
    let _others: Vec<_> = others.collect();
    listen(addrs, shared)
}

fn listen(addrs: &[SocketAddr], shared: bool) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let streams = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let tasks = Tasks::default();
        for addr in addrs {
            let socket = match addr {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(shared)?;
            socket.bind(*addr).map_err(|e| anyhow!(cannot_listen(addr, "--listen", &e)))?;
            let listener = socket.listen(1024).with_context(|| format!("listen on {addr}"))?;
            let _ = writeln!(stderr(), "listening on {}", listener.local_addr()?);
            tasks.spawn(far::accept_loop(listener, tasks.clone(), streams.handle().clone()));
        }
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = term.recv() => {}
            done = tokio::signal::ctrl_c() => done?,
        }
        Ok(())
    })
}

/// Where a load goes: of several addresses of a name, the first that answers.
///
/// # Errors
/// If the name has no address, or is not one of TCP.
pub fn resolve(target: &Address) -> anyhow::Result<SocketAddr> {
    let Address::Tcp { host, port } = target else { bail!("{target}: expected HOST:PORT") };
    let host = if host.is_empty() { "localhost" } else { host };
    let found = (host, *port).to_socket_addrs();
    let found: Vec<_> = found.with_context(|| format!("cannot resolve {host:?}"))?.collect();
    let Some(first) = found.first() else { bail!("{host:?} has no address") };
    let answers = |addr: &&SocketAddr| TcpStream::connect_timeout(addr, ANSWER).is_ok();
    Ok(*found.iter().filter(|_| found.len() > 1).find(answers).unwrap_or(first))
}

/// Runs a load to its end.
///
/// # Errors
/// If the load itself cannot run; what fails on the way is in the result.
pub fn run(load: &Load) -> anyhow::Result<Measured> {
    if load.mode == Mode::Mixed {
        return mixed(load);
    }
    let (job, name) = match load.mode {
        Mode::BulkUp => (Job::Stream(Kind::Up), "bulk-up"),
        Mode::BulkDown => (Job::Stream(Kind::Down), "bulk-down"),
        Mode::Duplex => (Job::Stream(Kind::Duplex), "duplex"),
        Mode::Churn => (Job::Churn, "churn"),
        Mode::Idle => (Job::Idle, "idle"),
        Mode::Slow => (Job::Slow(load.read_rate), "slow"),
        Mode::Ping | Mode::Mixed => (Job::Ping, "ping"),
    };
    let parts = run_parts(load, &[(job, name, load.connections)])?;
    let Some(part) = parts.first() else { bail!("nothing to do") };
    let mut json = part.json();
    json["target"] = json!(load.target);
    json["verified"] = json!(load.verify);
    let table = part.table() + verified(load);
    Ok(Measured { json, table, sound: part.is_sound() })
}

/// The line that says what was checked, if it was.
fn verified(load: &Load) -> &'static str {
    if load.verify { "  verified        every byte, at both ends\n" } else { "" }
}

/// Small messages beside much that is large or does not move.
fn mixed(load: &Load) -> anyhow::Result<Measured> {
    let small = (Job::Ping, "small", load.connections);
    let alone =
        if load.baseline { run_parts(load, &[(small.0, "baseline", small.2)])? } else { vec![] };
    let bulk =
        [(Kind::Up, "bulk-up", load.bulk.div_ceil(2)), (Kind::Down, "bulk-down", load.bulk / 2)];
    let mut jobs = vec![(Job::Slow(0), "stalled", load.stalled)];
    jobs.extend(bulk.map(|(kind, name, count)| (Job::Stream(kind), name, count)));
    jobs.push(small);
    jobs.retain(|(_, _, count)| *count > 0);
    let parts = run_parts(load, &jobs)?;
    let all = || alone.iter().chain(&parts);
    let mut json = json!({ "mode": "mixed", "target": load.target, "verified": load.verify });
    json["parts"] =
        all().map(|p| (p.mode.to_owned(), p.json())).collect::<serde_json::Map<_, _>>().into();
    let mut table: String = all().map(Part::table).collect();
    if let (Some(alone), Some(small)) = (alone.first(), parts.last()) {
        let ratio = small.p99() as f64 / alone.p99().max(1) as f64;
        json["p99_ratio"] = json!(ratio);
        table +=
            &format!("  p99 of the small messages: {ratio:.2} × that of the same messages alone\n");
    }
    table += verified(load);
    Ok(Measured { json, table, sound: all().all(Part::is_sound) })
}

/// Runs jobs side by side, each with its own connections and result.
fn run_parts(load: &Load, jobs: &[(Job, &'static str, usize)]) -> anyhow::Result<Vec<Part>> {
    let begin = Instant::now() + load.warmup;
    let end = begin + load.time;
    let part = |(job, _, connections): &(Job, _, usize)| {
        Arc::new(Shared {
            target: load.target,
            job: *job,
            size: load.size,
            verify: load.verify,
            rate: load.rate.filter(|_| matches!(job, Job::Ping | Job::Churn)),
            connections: *connections,
            begin,
            end,
            counts: Arc::default(),
        })
    };
    let shared: Vec<_> = jobs.iter().map(part).collect();
    // Each part has threads of its own: what is measured is the target, not the load.
    let threads = shared.iter().enumerate().flat_map(|(part, shared)| {
        (0..load.workers).map(move |worker| {
            let (shared, workers) = (Arc::clone(shared), load.workers);
            (part, std::thread::spawn(move || work(&shared, worker, workers)))
        })
    });
    let threads: Vec<_> = threads.collect();
    let counts: Vec<_> = shared.iter().map(|s| Arc::clone(&s.counts)).collect();
    let seen = watch(load, &counts, begin, end);
    let mut outcomes: Vec<_> = jobs.iter().map(|_| Outcome::default()).collect();
    for (part, thread) in threads {
        let Ok(done) = thread.join() else { bail!("a worker thread of adit bench panicked") };
        outcomes[part].add(done?);
    }
    let parts = jobs.iter().zip(shared).zip(outcomes).zip(seen);
    Ok(parts
        .map(|((((job, mode, connections), shared), outcome), seen)| {
            let total = |count: &AtomicU64| count.load(Relaxed);
            let counts = &shared.counts;
            let [sent, received, operations] = match job {
                // What an idle connection says, it says before and after.
                Job::Idle => [&counts.sent, &counts.received, &counts.operations].map(total),
                _ => seen,
            };
            Part {
                mode,
                connections: *connections,
                rate: shared.rate,
                time: load.time,
                sent,
                received,
                operations,
                outcome,
            }
        })
        .collect())
}

/// One thread's share of the connections.
fn work(shared: &Arc<Shared>, worker: usize, workers: usize) -> anyhow::Result<Outcome> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for which in (worker..shared.connections).step_by(workers) {
            running.spawn(load::run(Arc::clone(shared), which));
        }
        let mut outcome = Outcome::default();
        while let Some(ended) = running.join_next().await {
            outcome.add(ended?);
        }
        Ok(outcome)
    })
}

/// Shows how it goes, and says what was counted between `begin` and `end`: bytes sent,
/// received, operations.
fn watch(load: &Load, counts: &[Arc<Counts>], begin: Instant, end: Instant) -> Vec<[u64; 3]> {
    let look = || -> Vec<[u64; 3]> {
        let read = |c: &Arc<Counts>| [&c.sent, &c.received, &c.operations].map(|n| n.load(Relaxed));
        counts.iter().map(read).collect()
    };
    let bar = if load.progress { ProgressBar::new(1000) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let pause = |until: Instant| {
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(Duration::from_millis(200)));
        !left.is_zero()
    };
    bar.set_message("warming up");
    while pause(begin) {}
    let before = look();
    let mut last = (Instant::now(), look());
    while pause(end) {
        let (now, seen) = (Instant::now(), look());
        let sum = |all: &[[u64; 3]], which: usize| all.iter().map(|c| c[which]).sum::<u64>();
        let rate = |which| {
            let more = sum(&seen, which).saturating_sub(sum(&last.1, which));
            more as f64 / (now - last.0).as_secs_f64()
        };
        bar.set_message(format!("{:.2} Gbit/s, {:.0}/s", (rate(0) + rate(1)) * 8e-9, rate(2)));
        let passed = now.saturating_duration_since(begin).as_secs_f64() / load.time.as_secs_f64();
        bar.set_position((passed * 1000.0) as u64);
        last = (now, seen);
    }
    let after = look();
    bar.finish_and_clear();
    let between = |(a, b): (&[u64; 3], &[u64; 3])| [0, 1, 2].map(|n| b[n] - a[n]);
    before.iter().zip(&after).map(between).collect()
}
