//! What the mesh costs in memory and time, from 100 to 100,000 workloads: the first load, one
//! delta, looking up an address, a host name and a virtual address, the rules of a workload, and a
//! decision where all policies are about it.
//! `-- --test` only shows that it runs; `-- --json` prints a line of JSON for each case.

#[path = "mesh/decisions.rs"]
mod decisions;
#[path = "mesh/made.rs"]
mod made;
#[path = "mesh/memory.rs"]
mod memory;
#[path = "cases/timing.rs"]
mod timing;

use std::{collections::HashMap, hint::black_box, net::IpAddr, sync::Arc, time::Duration};

use adit::mesh::{Store, View};
use made::Made;
use nix::time::ClockId;
use serde_json::{Value, json};
use timing::{cpu, measured, median, stay_on_one_core};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
/// How often look-ups are measured.
const ROUNDS: usize = 7;
/// Deltas of each kind, each published by itself.
const DELTAS: usize = 2_000;
/// The pods of one node.
const LOCAL: usize = 100;

/// What was measured, by name.
type Row = Vec<(&'static str, f64)>;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let sizes = if has("--test") { &SIZES[..2] } else { &SIZES[..] };
    stay_on_one_core();
    let mut rows = Vec::new();
    for size in sizes {
        let row = case(*size, has("--test"));
        match has("--json") {
            true => print_json(*size, &row),
            false => print_row(*size, &row),
        }
        rows.push(row);
    }
    targets(&rows);
}

fn case(size: usize, short: bool) -> Row {
    let made = Made::of(size);
    let mut row = Row::new();
    let (mut store, load) = first_load(&made, &mut row);
    row.push(("first_load_ms", load.as_secs_f64() * 1e3));
    let rounds = if short { 1 } else { ROUNDS };
    look_ups(&store.view(), &made, rounds, &mut row);
    rules(&store.view(), &made, &mut row);
    let [median, most] = decisions::decisions(size, rounds);
    row.extend([("decision_ns", median), ("decision_p99_ns", most)]);
    deltas(&mut store, &made, if short { 20 } else { DELTAS }, &mut row);
    row
}

/// The resources one after the other, a view at the end. The memory of each kind is what is
/// there after its load and was not before; what is loaded is made outside of it.
fn first_load(made: &Made, row: &mut Row) -> (Store, Duration) {
    let mut store =
        Store::new("cluster.local".parse().expect("a trust domain"), Default::default());
    let mut spent = Duration::ZERO;
    for (name, count, load) in made.loads() {
        let before = memory::live();
        // Each made when its turn comes, as a source does, and not counted as time.
        spent += load(&mut store);
        let begin = thread_time();
        drop(black_box(store.take_changes()));
        spent += thread_time() - begin;
        row.push((name, (memory::live() - before) as f64 / count as f64));
    }
    drop(black_box(store.view()));
    (store, spent)
}

fn look_ups(view: &View, made: &Made, rounds: usize, row: &mut Row) {
    let addresses: Vec<IpAddr> = made.shuffled(|n| made.address(n));
    // A table that nobody shares, as the machine has it at that moment.
    let table: HashMap<IpAddr, Arc<_>, foldhash::fast::RandomState> = addresses
        .iter()
        .filter_map(|ip| Some((*ip, Arc::clone(view.workload_by_ip(*ip)?))))
        .collect();
    row.push(("std_by_address_ns", each(&addresses, rounds, |ip| table.contains_key(ip))));
    let vips: Vec<IpAddr> = made.shuffled_services(|n| made.vip(n));
    let hosts: Vec<_> = made.shuffled_services(|n| (made.namespace(n), made.hostname(n)));
    let by_ip = |ip: &IpAddr| view.workload_by_ip(*ip).is_some();
    row.push(("by_address_ns", each(&addresses, rounds, by_ip)));
    let by_host = |(ns, host): &(String, String)| view.service(ns, host).is_some();
    row.push(("by_host_ns", each(&hosts, rounds, by_host)));
    row.push(("by_vip_ns", each(&vips, rounds, |ip| view.service_by_vip(*ip, "").is_some())));
}

/// Nanoseconds of CPU time for one look-up, at random among all.
fn each<K>(keys: &[K], rounds: usize, look_up: impl Fn(&K) -> bool) -> f64 {
    let turns = 200_000_usize.div_ceil(keys.len());
    let round = || {
        let cost = measured(|| {
            for _ in 0..turns {
                assert!(keys.iter().all(|key| black_box(look_up(black_box(key)))));
            }
        });
        cost.cpu * 1e9 / (turns * keys.len()) as f64
    };
    median((0..rounds).map(|_| round()))
}

/// CPU time of this thread: what it waits for others on the machine is not in it, what they
/// take of its caches is.
fn thread_time() -> Duration {
    cpu(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn rules(view: &View, made: &Made, row: &mut Row) {
    let local: Vec<String> =
        (0..LOCAL.min(made.workloads)).map(|n| made.uid(n * 7919 % made.workloads)).collect();
    let ask = || {
        let cost = measured(|| local.iter().for_each(|uid| drop(black_box(view.rules(uid)))));
        cost.cpu * 1e9 / local.len() as f64
    };
    row.push(("rules_first_ns", ask()));
    row.push(("rules_later_ns", median((0..100).map(|_| ask()))));
}

/// Each delta with the changes and the view that come of it, while the view before is in use.
fn deltas(store: &mut Store, made: &Made, count: usize, row: &mut Row) {
    let mut published = Arc::new(store.view());
    for (names, delta) in made.deltas() {
        let mut took: Vec<f64> = (0..count)
            .map(|n| {
                let change = delta(made, n);
                let begin = thread_time();
                change(store);
                black_box(store.take_changes());
                published = Arc::new(store.view());
                (thread_time() - begin).as_secs_f64() * 1e6
            })
            .collect();
        took.sort_by(f64::total_cmp);
        row.push((names[0], took[took.len() / 2]));
        row.push((names[1], took[took.len() * 99 / 100]));
    }
    black_box(&published);
}

fn targets(rows: &[Row]) {
    let of = |row: &Row, name: &str| {
        row.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, value)| *value)
    };
    let (first, last) = (&rows[0], &rows[rows.len() - 1]);
    println!("targets, at {} workloads at most:", SIZES[rows.len() - 1]);
    let say = |what: &str, value: f64, limit: f64| {
        let met = if value <= limit { "met" } else { "NOT MET" };
        println!("  {what:48} {value:10.2}, at most {limit}: {met}");
    };
    for (name, _) in last.iter().filter(|(n, _)| n.ends_with("p99_us")) {
        let worst = rows.iter().map(|row| of(row, name)).fold(0.0, f64::max);
        say(&format!("{name}, of any size"), worst, 100.0);
    }
    for name in ["by_address_ns", "by_host_ns", "by_vip_ns"] {
        say(name, of(last, name), 200.0);
        say(&format!("{name}, largest to smallest"), of(last, name) / of(first, name), 2.0);
    }
    let worst = rows.iter().map(|row| of(row, "decision_p99_ns")).fold(0.0, f64::max);
    say("decision_p99_ns, of any size", worst, 2_000.0);
    say("bytes_per_workload", of(last, "bytes_per_workload"), 400.0);
}

fn print_json(size: usize, row: &Row) {
    let mut line = json!({ "workloads": size });
    for (name, value) in row {
        line[*name] = Value::from((value * 1000.0).round() / 1000.0);
    }
    println!("{line}");
}

fn print_row(size: usize, row: &Row) {
    println!("{size} workloads");
    for (name, value) in row {
        println!("  {name:28} {value:12.2}");
    }
}
