//! Scenarios with real capture, in namespaces of their own. Runs as root, or as anybody where
//! user namespaces are allowed: the process moves into fresh ones before its first thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

#[path = "../support/forge.rs"]
mod forge;
mod impersonation;
#[path = "../support/lab.rs"]
mod lab;
mod mesh;
mod peers;
mod refusals;
mod stalls;

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    lab::become_root();
    let tests =
        [mesh::TESTS, refusals::TESTS, impersonation::TESTS, peers::TESTS, stalls::TESTS].concat();
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| name.contains(&filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, test) in &chosen {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += usize::from(!ok);
    }
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, chosen.len() - failed);
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out\n",
        tests.len() - chosen.len()
    );
    std::process::exit(i32::from(failed > 0));
}
