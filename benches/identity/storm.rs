//! 1,000 pods that ask `adit ca serve` at once, each for its own identity: as 1,000 clients with a
//! connection and a token each (`pods`), and through the one node proxy that carries all of them
//! (`node`), where ten of them are asked for in the middle of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use adit::{
    credentials::{
        AuthToken, ControlPlane, Istiod, IstiodConfig, Roots, Server, Source, Svids, Urgency,
        Wanted,
    },
    identity::{KeyUsageRule, SpiffeId},
    lifecycle::Tasks,
    observe::metrics::Metrics,
};
use futures_util::future::join_all;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::runtime::{Builder, Runtime};

use crate::issuer::{Issuer, claims, jwks};

/// How many are asked for while the others are on their way.
const ON_DEMAND: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);

/// Writes into `dir` what the server and `count` pods need: the JWKS, the list of pods, a token
/// for each (good for a minute) and one for their node proxy.
pub(crate) fn prepare(dir: &Path, count: usize) {
    let issuer = Issuer::new("k1");
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("written");
    write("jwks", &jwks(&[&issuer]));
    let mut pods = "pods:\n".to_owned();
    for n in 0..count {
        let (account, pod) = (account(n), format!("pod-{n}-0"));
        pods += &format!(
            "- {{ namespace: shop, serviceAccount: {account}, node: n1, name: {pod}, uid: \
             uid-{pod} }}\n"
        );
        write(&format!("token-{n}"), &issuer.sign(&claims("shop", &account, &pod, "n1")));
    }
    pods += "- { namespace: sys, serviceAccount: adit, node: n1, name: adit-1, uid: uid-adit-1 }\n";
    write("pods", &pods);
    write("node-token", &issuer.sign(&claims("sys", "adit", "adit-1", "n1")));
}

fn account(n: usize) -> String {
    format!("pod-{n}")
}

fn id(n: usize) -> SpiffeId {
    format!("spiffe://td/ns/shop/sa/{}", account(n)).parse().expect("a SPIFFE ID")
}

fn source(dir: &Path, addr: &str, token: PathBuf) -> Istiod {
    let address = format!("https://{addr}");
    let uri = address.parse().expect("a URI");
    Istiod::new(IstiodConfig {
        server: ControlPlane {
            server: Server::of(&uri, Some("ca.test"), 15012).expect("a server"),
            alternative_name: None,
            address,
            token: Some(AuthToken::File(token)),
            roots: Roots::File(dir.join("ca/root.pem")),
            cluster_id: None,
            headers: Vec::new(),
        },
        svid_lifetime: Duration::from_secs(3600),
        aliases: Default::default(),
        key_usage: KeyUsageRule::Required,
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// `count` clients at once.
pub(crate) fn pods(dir: &Path, addr: &str, count: usize) {
    runtime().block_on(async {
        let clients: Vec<_> =
            (0..count).map(|n| source(dir, addr, dir.join(format!("token-{n}")))).collect();
        let begin = Instant::now();
        let asked = clients.iter().enumerate().map(|(n, client)| async move {
            let wanted = Wanted { uid: account(n).into(), id: id(n) };
            let fetched = client.fetch(&wanted, Urgency::OnDemand).await;
            fetched.map(|_| begin.elapsed()).map_err(|e| e.to_string())
        });
        let done = tokio::time::timeout(LIMIT, join_all(asked)).await.expect("an end");
        let failed: Vec<_> = done.iter().filter_map(|one| one.as_ref().err()).collect();
        failed.iter().take(3).for_each(|why| eprintln!("a pod got nothing: {why}"));
        let took = done.iter().filter_map(|one| one.as_ref().ok()).copied().collect();
        let mut said = json!({ "case": "pods", "pods": count, "failed": failed.len() });
        said["ms"] = spread(took);
        println!("{said}");
    });
}

/// One node proxy for `count` pods, over one connection.
pub(crate) fn node(dir: &Path, addr: &str, count: usize) {
    runtime().block_on(async {
        let source = Arc::new(source(dir, addr, dir.join("node-token")));
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let svids = Svids::new(source, Arc::clone(&metrics), Tasks::default());
        let held = || metrics.credentials.renewals.with_label_values(&["issued", "istiod"]).get();
        let (begin, clock) = (Instant::now(), SystemTime::now());
        for n in 0..count {
            svids.watch(&account(n).into(), &id(n));
        }
        let until = |share: u64| {
            let held = &held;
            async move {
                while held() < share {
                    assert!(begin.elapsed() < LIMIT, "{} of {share} after a minute", held());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        let count_u64 = u64::try_from(count).expect("a count");
        until(count_u64 / 4).await;
        // A connection comes for each of the last ten.
        let before = held();
        let asked = (count - ON_DEMAND..count).map(|n| {
            let (svids, asked) = (&svids, Instant::now());
            async move {
                svids.ready(&account(n)).await.expect("an SVID");
                asked.elapsed()
            }
        });
        let on_demand = join_all(asked).await;
        let after = held();
        until(count_u64).await;
        let took: Vec<_> =
            svids.statuses().into_iter().filter_map(|s| obtained(s.last_success?, clock)).collect();
        let failed = count - took.len();
        println!(
            "{}",
            json!({ "case": "node", "pods": count, "failed": failed, "ms": spread(took),
                    "on_demand": { "asked_after": before, "answered_before": count_u64 - after,
                                   "ms": spread(on_demand) } })
        );
    });
}

fn obtained(at: String, begin: SystemTime) -> Option<Duration> {
    let at: SystemTime = OffsetDateTime::parse(&at, &Rfc3339).ok()?.into();
    at.duration_since(begin).ok()
}

fn spread(mut took: Vec<Duration>) -> serde_json::Value {
    took.sort();
    let at = |share: f64| {
        let nth = ((took.len() as f64 * share).ceil() as usize).clamp(1, took.len().max(1));
        took.get(nth - 1).map_or(0.0, |d| (d.as_secs_f64() * 1e5).round() / 100.0)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "last": at(1.0) })
}
