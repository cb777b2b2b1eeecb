//! Runs the cases of one bench: without arguments all of them, with times; `CASE COUNT` one of
//! them so often and no more, for a tool that counts instructions; `--list` their names; `--test`
//! runs each once, to see that it does.

use std::{hint::black_box, time::Instant};

/// A case: its name, the bytes of one operation, and what makes the operation.
pub(crate) type Case = (&'static str, usize, fn() -> Box<dyn FnMut()>);

/// How often a time is taken; the median counts.
const ROUNDS: usize = 7;

pub(crate) fn run(cases: &[Case]) {
    // Cargo adds --bench.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match &args[..] {
        [list] if list == "--list" => cases.iter().for_each(|(name, ..)| println!("{name}")),
        [test] if test == "--test" => cases.iter().for_each(|(name, _, make)| {
            make()();
            println!("{name} runs");
        }),
        [name, count] => {
            let case = cases.iter().find(|(known, ..)| known == name);
            let (_, _, make) = case.unwrap_or_else(|| panic!("{name} is none of the cases"));
            let mut operation = make();
            for _ in 0..count.parse().expect("a count") {
                operation();
            }
        }
        _ => cases.iter().for_each(time),
    }
}

fn time(&(name, bytes, make): &Case) {
    let mut operation = black_box(make());
    let mut count = 1;
    let mut once = |count: u32| {
        let begin = Instant::now();
        (0..count).for_each(|_| operation());
        begin.elapsed().as_secs_f64()
    };
    while once(count) < 0.02 {
        count *= 2;
    }
    let mut took: Vec<_> = (0..ROUNDS).map(|_| once(count) / f64::from(count)).collect();
    took.sort_by(f64::total_cmp);
    let each = took[ROUNDS / 2];
    println!("{name:<20} {:>9.0} ns {:>9.0} MB/s", each * 1e9, bytes as f64 / each / 1e6);
}
