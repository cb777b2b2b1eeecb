//! What a process keeps for each identity: `memory COUNT` holds that many from an embedded CA and
//! prints its own resident memory.

use std::{sync::Arc, time::Duration};

use adit::{
    authority::EmbeddedCa, credentials::Svids, identity::SpiffeId, lifecycle::Tasks,
    observe::metrics::Metrics,
};
use serde_json::json;

pub(crate) fn run(count: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let domain = "td".parse().expect("a trust domain");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let hour = Duration::from_secs(3600);
        let ca = Arc::new(EmbeddedCa::open(dir.path(), &domain, hour).expect("a CA"));
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let svids = Svids::new(ca, metrics, Tasks::default());
        let before = resident_kb();
        let uid = |n: usize| -> Arc<str> { format!("shop/pod-{n}").into() };
        for n in 0..count {
            let id: SpiffeId = format!("spiffe://td/ns/shop/sa/pod-{n}").parse().expect("an ID");
            svids.watch(&uid(n), &id);
        }
        for n in 0..count {
            svids.ready(&uid(n)).await.expect("an SVID");
        }
        println!(
            "{}",
            json!({ "identities": count, "before_kb": before, "rss_kb": resident_kb() })
        );
    });
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
