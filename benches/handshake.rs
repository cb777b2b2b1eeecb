//! Full handshakes of mutual TLS on one core: both ends driven by adit over sockets, beside
//! both ends of bare rustls in memory; same keys, group and suite, nothing resumed.
//! The tests' tokio (`test-util`) wakes a worker once more per step: without that feature adit
//! does 0.72 of bare rustls where this says 0.66 (`results/2026-11-24-data-path`).
//! `burst` instead makes many at once against a server that runs ([`burst`]).

#[path = "handshake/burst.rs"]
mod burst;
#[path = "../tests/support/svids.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod svids;
#[path = "cases/timing.rs"]
mod timing;

use std::{sync::Arc, time::Duration};

use adit::tls::{Acceptor, Connector};
use futures_util::future::try_join;
use pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption, crypto::CryptoProvider, server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use svids::{Leaf, ROOT, spiffe};
use timing::{Cost, measured, median};

/// Handshakes between two looks at the clock.
const BATCH: usize = 200;
/// Looks at the clock, the cases taking turns.
const ROUNDS: usize = 9;
/// What is agreed on in every case.
const AGREED: (&str, &str) = ("X25519MLKEM768", "TLS_AES_256_GCM_SHA384");

fn main() {
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|first| first == "burst") {
        return burst::run(&args[1..]);
    }
    let short = args.iter().any(|arg| arg == "--test");
    let (rounds, batch) = if short { (1, 4) } else { (ROUNDS, BATCH) };
    timing::stay_on_one_core();
    let rustls = BareRustls::new();
    let (worker, adit) = (worker(), Driver::new());
    let cases: [(&str, &dyn Fn(usize) -> Cost); 4] = [
        ("rustls in memory", &|n| rustls.in_memory(n)),
        ("tokio-rustls, sockets", &|n| rustls.over_sockets(&worker, n)),
        ("adit, one at a time", &|n| adit.handshakes(&worker, n, 1)),
        ("adit, 50 at once", &|n| adit.handshakes(&worker, n, 50)),
    ];
    let mut costs = cases.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, case), costs) in cases.iter().zip(&mut costs) {
            costs.push(case(batch));
        }
    }
    let each = costs.map(|costs| median(costs.iter().map(|c| c.cpu / batch as f64)));
    for ((name, _), cpu) in cases.iter().zip(each) {
        println!(
            r#"{{"case":"{name}","cpu_us":{:.1},"per_core_second":{:.0},"of_rustls":{:.2}}}"#,
            cpu * 1e6,
            1.0 / cpu,
            each[0] / cpu
        );
    }
}

/// What adit offers, in its order.
fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group as group};
    Arc::new(CryptoProvider {
        kx_groups: vec![group::X25519MLKEM768, group::X25519],
        cipher_suites: vec![suite::TLS13_AES_256_GCM_SHA384],
        ..default_provider()
    })
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(ROOT.der.clone()).expect("a root");
    roots
}

/// rustls with its own verifiers.
struct BareRustls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl BareRustls {
    fn new() -> Self {
        let (client, server): (Leaf, Leaf) = (ROOT.leaf("client"), ROOT.leaf("server"));
        let only = &[&rustls::version::TLS13];
        let mut calls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(only)
            .expect("TLS 1.3")
            .with_root_certificates(roots())
            .with_client_auth_cert(vec![client.der.clone()], client.key())
            .expect("a usable certificate");
        calls.alpn_protocols = vec![b"h2".to_vec()];
        calls.resumption = Resumption::disabled();
        let clients = WebPkiClientVerifier::builder_with_provider(roots().into(), provider());
        let mut answers = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(only)
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(vec![server.der.clone()], server.key())
            .expect("a usable certificate");
        answers.alpn_protocols = vec![b"h2".to_vec()];
        answers.send_tls13_tickets = 0;
        Self { client: calls.into(), server: answers.into() }
    }

    fn name() -> ServerName<'static> {
        "127.0.0.1".try_into().expect("a name")
    }

    fn in_memory(&self, count: usize) -> Cost {
        measured(|| {
            for _ in 0..count {
                let client = ClientConnection::new(Arc::clone(&self.client), Self::name());
                let mut client = Connection::from(client.expect("a client"));
                let server = ServerConnection::new(Arc::clone(&self.server));
                let mut server = Connection::from(server.expect("a server"));
                let mut wire = Vec::with_capacity(8192);
                while client.is_handshaking() || server.is_handshaking() {
                    pass(&mut client, &mut server, &mut wire);
                    pass(&mut server, &mut client, &mut wire);
                }
                let group = client.negotiated_key_exchange_group().expect("a group").name();
                assert_eq!(format!("{group:?}"), AGREED.0);
            }
        })
    }

    /// The usual way to await a handshake: nothing of adit's, but sockets and a runtime.
    fn over_sockets(&self, runtime: &Runtime, count: usize) -> Cost {
        let pairs = runtime.block_on(pairs(count));
        let (calls, answers) = (Arc::clone(&self.client), Arc::clone(&self.server));
        let calls = tokio_rustls::TlsConnector::from(calls);
        let answers = tokio_rustls::TlsAcceptor::from(answers);
        measured(|| {
            runtime.block_on(async {
                for (near, far) in pairs {
                    let (near, far) = (calls.connect(Self::name(), near), answers.accept(far));
                    try_join(near, far).await.expect("a handshake");
                }
            });
        })
    }
}

/// Everything `from` has to say.
fn pass(from: &mut Connection, to: &mut Connection, wire: &mut Vec<u8>) {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).expect("memory");
    }
    let mut rest = &wire[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory");
        to.process_new_packets().expect("a sound peer");
    }
}

/// A worker as `adit run` makes them.
fn worker() -> Runtime {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .on_thread_start(adit::sys::process::yield_to_others)
        .build();
    runtime.expect("a runtime")
}

/// adit's two ends.
struct Driver {
    client: adit::identity::LocalIdentity,
    server: adit::identity::LocalIdentity,
    connector: Connector,
    acceptor: Acceptor,
}

impl Driver {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            client: ROOT.own("client"),
            server: ROOT.own("server"),
            connector: Connector::default(),
            acceptor: Acceptor::default(),
        })
    }

    fn handshakes(self: &Arc<Self>, runtime: &Runtime, count: usize, at_once: usize) -> Cost {
        let mut pairs = runtime.block_on(pairs(count)).into_iter();
        measured(|| {
            runtime.block_on(async {
                while pairs.len() > 0 {
                    let some = pairs.by_ref().take(at_once);
                    let all: JoinSet<()> = some.map(|p| Arc::clone(self).handshake(p)).collect();
                    all.join_all().await;
                }
            });
        })
    }

    async fn handshake(self: Arc<Self>, (near, far): (TcpStream, TcpStream)) {
        let (own, expected) = (&self.client, [spiffe("server")]);
        let within = Duration::from_secs(10);
        let near = self.connector.connect(near, &own.svid, &own.bundles, &expected, within);
        let far = self.acceptor.accept(far, &self.server.svid, &self.server.bundles, within);
        let (near, _far) = try_join(near, far).await.expect("a handshake");
        assert_eq!((near.peer.tls.group, near.peer.tls.cipher), AGREED);
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
