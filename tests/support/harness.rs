//! Runs tests in the process's first thread, which libtest does not allow: namespaces are
//! entered before there are others.

use std::collections::BTreeSet;

pub(crate) type Test = (&'static str, fn());

/// # Panics
/// Two tests have one name.
pub(crate) fn run(tests: &[Test]) -> ! {
    let names: BTreeSet<_> = tests.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), tests.len(), "each scenario has a name of its own");
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
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
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {} \
         filtered out\n",
        tests.len() - chosen.len()
    );
    std::process::exit(i32::from(failed > 0));
}
