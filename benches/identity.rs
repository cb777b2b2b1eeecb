//! What identities cost: SVIDs per second of the embedded CA beside bare rcgen with the same
//! template, and handshakes with one and with 1,000 trust domains in the trust store.
//! `-- --test` only shows that it runs; `-- --json` prints a line of JSON for each case.
//! With a CA that runs, for `scripts/identity_bench.sh`: [`storm`], [`memory`].

#[path = "identity/authority.rs"]
mod authority;
#[path = "../tests/ca/issuer.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod issuer;
#[path = "identity/memory.rs"]
mod memory;
#[path = "identity/storm.rs"]
mod storm;
#[path = "../tests/support/svids.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod svids;
#[path = "cases/timing.rs"]
mod timing;
#[path = "identity/trust.rs"]
mod trust;

use serde_json::{Value, json};

/// How often each case is measured, the cases taking turns.
const ROUNDS: usize = 9;

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    match words.as_slice() {
        ["prepare", dir, count] => storm::prepare(dir.as_ref(), number(count)),
        ["pods", dir, addr, count] => storm::pods(dir.as_ref(), addr, number(count)),
        ["node", dir, addr, count] => storm::node(dir.as_ref(), addr, number(count)),
        ["memory", count] => memory::run(number(count)),
        _ => {
            let has = |word| words.contains(&word);
            let rounds = if has("--test") { 1 } else { ROUNDS };
            let print = if has("--json") { print_json } else { print_row };
            authority::run(rounds, has("--test"), print);
            trust::run(rounds, has("--test"), print);
        }
    }
}

/// How a case is told: its name, and what was measured.
type Print = fn(&str, &[(&str, f64)]);

fn print_json(case: &str, measured: &[(&str, f64)]) {
    let rounded = |v: f64| (v * 1000.0).round() / 1000.0;
    let mut line = json!({ "case": case });
    for (name, value) in measured {
        line[*name] = Value::from(rounded(*value));
    }
    println!("{line}");
}

fn print_row(case: &str, measured: &[(&str, f64)]) {
    let measured: Vec<_> = measured.iter().map(|(name, v)| format!("{name} {v:.2}")).collect();
    println!("{case:42} {}", measured.join(", "));
}
