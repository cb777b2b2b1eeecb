//! An ambient node beside a control plane of 1,000 to 100,000 workloads: how long it takes to be
//! ready, what it holds, and how long it stalls a live stream while it is told of the whole mesh
//! once more, and while it is told of 1,000 changes a second.
//!
//! The real program with the arguments and the environment of Istio's chart, an istiod and an
//! istio-cni of ours, and two captured pods of its node; other node proxies that take the same
//! contract run beside it, in the same rounds. Needs root, or user namespaces. A line of JSON for
//! each figure goes to standard output; `scripts/bench.sh --mesh` makes tables and a plot of them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "as in tests")]

#[path = "../tests/support/fake_cni.rs"]
mod fake_cni;
#[path = "../tests/support/fake_istiod.rs"]
mod fake_istiod;
#[path = "../tests/support/grpc_server.rs"]
mod grpc_server;
#[path = "node/istiod.rs"]
mod istiod;
#[path = "../tests/support/lab.rs"]
#[allow(dead_code, reason = "its adit is another")]
mod lab;
#[path = "../tests/support/pki.rs"]
mod pki;
#[path = "../tests/support/process.rs"]
mod process;
#[path = "node/proxy.rs"]
mod proxy;
#[path = "node/resources.rs"]
mod resources;
#[path = "../tests/support/rules_of_cni.rs"]
mod rules_of_cni;
#[path = "node/streams.rs"]
mod streams;
#[path = "../tests/support/wait.rs"]
mod wait;

use std::{
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use clap::Parser;
use istiod::Istiod;
use lab::Lab;
use proxy::{NodeProxy, Usage};
use resources::Mesh;
use streams::Streams;

/// `web` and `db` are captured, `near` and `far` are not and have their own stream.
const NAMESPACES: &[(&str, u8)] =
    &[("web", 1), ("db", 2), ("near", 3), ("far", 4), ("istiod", 250), ("n1", 201)];
/// What is freed after a load has until then to go back.
const SETTLES: Duration = Duration::from_secs(2);
/// What a push leads to is over so long after it was acknowledged.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// Deltas in a second.
const RATE: u32 = 1000;

#[derive(Parser)]
struct Args {
    /// How many workloads; a node with its own pods alone is measured before
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    sizes: Vec<usize>,
    /// Rounds of all proxies and sizes
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long the streams are watched while nothing changes, and how long there are deltas
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// `NAME=PROGRAM` each; adit is the one of this tree where no program is given
    #[arg(long, value_delimiter = ',', default_value = "adit")]
    proxies: Vec<String>,
    /// From cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One proxy at one size.
struct Run<'a> {
    lab: &'a Lab,
    round: usize,
    name: &'a str,
    workloads: usize,
}

fn main() {
    let args = Args::parse();
    adit::sys::sandbox::enter().expect("root, or user namespaces");
    lab::ip("link set lo up");
    let lab = Lab::new(NAMESPACES);
    ["web", "db"].into_iter().for_each(|pod| rules_of_cni::redirect(&lab, pod));
    for round in 1..=args.rounds {
        for size in [0].into_iter().chain(args.sizes.iter().copied()) {
            for proxy in &args.proxies {
                let (name, program) = proxy.split_once('=').unwrap_or((proxy, proxy::ADIT));
                eprintln!("round {round}: {name}, {size} workloads");
                let run = Run { lab: &lab, round, name, workloads: size };
                run.measure(program, args.seconds);
            }
        }
    }
}

impl Run<'_> {
    fn measure(&self, program: &str, seconds: u32) {
        let mesh = Mesh::of(self.workloads);
        let mut istiod = Istiod::new(self.lab, &mesh);
        let begun = Instant::now();
        let mut node = NodeProxy::start(self.lab, program);
        istiod.meets();
        node.is_told_of_its_pods();
        node.is_ready(self.lab);
        self.say("ready ms", begun.elapsed().as_secs_f64() * 1e3);
        self.say("ready CPU ms", node.usage().cpu_ms);
        sleep(SETTLES);
        self.memory("", &node.usage());
        if self.workloads == 0 {
            return;
        }
        let streams = Streams::start(self.lab);
        assert!(node.has_tunnels(self.lab), "{}: no tunnel to port 15008", self.name);
        sleep(Duration::from_millis(500));

        let idle = Instant::now();
        sleep(Duration::from_secs(seconds.into()));
        self.stalls("idle", &streams, idle);

        for (what, revision) in [("push", 2), ("same push", 2)] {
            let resources = mesh.resources(revision);
            let before = node.usage();
            let begin = Instant::now();
            istiod.pushes(resources);
            self.say(&format!("{what} ms"), begin.elapsed().as_secs_f64() * 1e3);
            sleep(AFTERWARDS);
            self.say(&format!("{what} CPU ms"), node.usage().cpu_ms - before.cpu_ms);
            self.stalls(what, &streams, begin);
        }

        let before = node.usage();
        let begin = Instant::now();
        let late = istiod.moves(&mesh, RATE, seconds);
        self.say("deltas late ms", late.as_secs_f64() * 1e3);
        let each = (node.usage().cpu_ms - before.cpu_ms) / f64::from(RATE * seconds);
        self.say("delta and stream CPU us", each * 1e3);
        self.stalls("deltas", &streams, begin);
        drop(streams);
        sleep(SETTLES);
        self.memory(" after", &node.usage());
    }

    fn memory(&self, when: &str, usage: &Usage) {
        self.say(&format!("resident KB{when}"), usage.resident_kb);
        self.say(&format!("peak KB{when}"), usage.peak_kb);
    }

    /// How long what was sent since then was on its way, through the node and beside it.
    fn stalls(&self, what: &str, streams: &Streams, since: Instant) {
        for (where_, delays) in [("", streams.through(since)), (" beside", streams.beside(since))] {
            self.say(&format!("{what} stall us{where_}"), delays.longest);
            self.say(&format!("{what} p99 us{where_}"), delays.p99);
        }
        self.say(&format!("{what} stall us of its own"), streams.of_its_own(since));
    }

    fn say(&self, metric: &str, value: f64) {
        let line = serde_json::json!({
            "round": self.round,
            "proxy": self.name,
            "workloads": self.workloads,
            "metric": metric,
            "value": (value * 10.0).round() / 10.0,
        });
        writeln!(std::io::stdout(), "{line}").expect("somebody reads");
    }
}
