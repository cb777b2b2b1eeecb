//! Whether more trust domains make a handshake dearer, and what it takes to change one of them.

use std::{hint::black_box, sync::Arc, time::Duration};

use adit::{
    identity::{BundleSet, TrustBundle, X509Svid},
    tls::{Acceptor, Connector},
};
use futures_util::future::try_join;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose as Ku};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

use crate::{
    Print,
    authority::ratio,
    svids::{ROOT, spiffe},
    timing::{Cost, measured, median, stay_on_one_core},
};

/// Trust domains beside our own.
const MANY: usize = 1000;
/// Handshakes between two looks at the clock.
const BATCH: usize = 100;

pub(crate) fn run(rounds: usize, short: bool, print: Print) {
    stay_on_one_core();
    let (batch, many) = if short { (3, 10) } else { (BATCH, MANY) };
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let few = ROOT.own("server").bundles;
    let foreign: Vec<TrustBundle> = (0..many).map(bundle).collect();
    let mut set = (*few).clone();
    foreign.iter().for_each(|bundle| set.insert(bundle.clone()));
    let (ends, mut costs) = (Ends::new(), [Vec::new(), Vec::new(), Vec::new(), Vec::new()]);
    let many_set = Arc::new(set);
    for _ in 0..rounds {
        let changed = |bundles: &Arc<BundleSet>| Arc::new((**bundles).clone());
        costs[0].push(ends.handshakes(&runtime, batch, || Arc::clone(&few)));
        costs[1].push(ends.handshakes(&runtime, batch, || Arc::clone(&many_set)));
        costs[2].push(ends.handshakes(&runtime, batch, || changed(&few)));
        costs[3].push(ends.handshakes(&runtime, batch, || changed(&many_set)));
    }
    let names = ["1 trust domain", "1,001 trust domains", "1, changed", "1,001, changed"];
    for (n, name) in names.iter().enumerate() {
        let cpu = median(costs[n].iter().map(|c| c.cpu / batch as f64)) * 1e6;
        let of = ratio(&costs[n], &costs[0], |c| c.cpu);
        print(&format!("handshake: {name}"), &[("cpu_us", cpu), ("of_one", of)]);
    }
    let mut swaps = Vec::new();
    for round in 0..rounds {
        let next = bundle(round % many);
        let mut held = Arc::clone(&many_set);
        // As a bundle that came in is put beside the others, which handshakes still use.
        swaps.push(measured(|| Arc::make_mut(&mut held).insert(black_box(next))).cpu * 1e6);
    }
    print("swap of one bundle among 1,001", &[("cpu_us", median(swaps.into_iter()))]);
}

/// Of another trust domain, with a root of its own.
fn bundle(n: usize) -> TrustBundle {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("root {n}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign];
    let root = params.self_signed(&key).expect("signed").der().clone();
    let domain = format!("domain-{n}.test").parse().expect("a trust domain");
    TrustBundle::new(domain, vec![root])
}

/// adit at both ends.
struct Ends {
    client: Arc<X509Svid>,
    server: Arc<X509Svid>,
    connector: Connector,
    acceptor: Acceptor,
}

impl Ends {
    fn new() -> Self {
        let (client, server) = (ROOT.own("client").svid, ROOT.own("server").svid);
        Self { client, server, connector: Connector::default(), acceptor: Acceptor::default() }
    }

    /// One after the other, each against the bundles that `bundles` gives for it.
    fn handshakes(
        &self,
        runtime: &Runtime,
        count: usize,
        bundles: impl Fn() -> Arc<BundleSet>,
    ) -> Cost {
        let (within, expected) = (Duration::from_secs(10), [spiffe("server")]);
        let pairs = runtime.block_on(pairs(count));
        let with_bundles: Vec<_> = pairs.into_iter().map(|pair| (pair, bundles())).collect();
        measured(|| {
            runtime.block_on(async {
                for ((near, far), bundles) in with_bundles {
                    let near =
                        self.connector.connect(near, &self.client, &bundles, &expected, within);
                    let far = self.acceptor.accept(far, &self.server, &bundles, within);
                    try_join(near, far).await.expect("a handshake");
                }
            });
        })
    }
}

/// Connected sockets, made before the clock runs.
async fn pairs(count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let addr = listener.local_addr().expect("an address");
    let mut pairs = Vec::new();
    for _ in 0..count {
        let near = TcpStream::connect(addr).await.expect("connected");
        let far = listener.accept().await.expect("accepted").0;
        for socket in [&near, &far] {
            socket.set_nodelay(true).expect("a socket");
        }
        pairs.push((near, far));
    }
    pairs
}
