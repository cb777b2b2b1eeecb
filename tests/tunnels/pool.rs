//! How many tunnels there are, and which of them a new stream takes, when peers misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use adit::{
    hbone::{
        ConnectError, Hop, Pool, Through, TunnelConfig, Underlay,
        connect::ConnectRequest,
        order::Ticket,
        server::{Incoming, TunnelParams, serve},
        stream::TunnelStream,
    },
    identity::LocalIdentity,
    lifecycle::Tasks,
    tls::Acceptor,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::Test,
    svids::{ROOT, spiffe},
    tunnel::{caller, pool_to, run},
};

pub(crate) const TESTS: &[Test] = &[
    ("pool::a_burst_on_a_peer_with_few_places_shares_its_tunnels", few_places),
    ("pool::of_tunnels_without_a_stream_one_is_kept", surplus),
    ("pool::a_request_that_is_reset_costs_no_tunnel", reset_requests),
    ("pool::a_tunnel_that_broke_is_let_go_of", broken_tunnel),
    ("pool::nothing_begins_under_an_svid_that_has_ended", expired_peer),
    ("pool::a_renewed_svid_has_tunnels_of_its_own", renewed),
    ("pool::a_request_that_was_refused_is_asked_on_a_tunnel_of_its_own", refused_once),
    ("pool::another_peer_at_the_same_address_is_asked_who_it_is", another_peer),
    ("pool::who_answers_beyond_a_gateway_is_told_from_the_gateway", beyond),
    ("pool::each_peer_proves_itself_anew", tickets),
];

/// A pool, and a peer that does with each connection what it is told to.
struct Ends {
    pool: Pool,
    own: LocalIdentity,
    hop: Hop,
    tasks: Tasks,
    dials: Arc<AtomicUsize>,
}

impl Ends {
    async fn new<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream, Tasks) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tasks, dials) = (Tasks::default(), Arc::new(AtomicUsize::new(0)));
        let (spawner, count) = (tasks.clone(), Arc::clone(&dials));
        tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                spawner.spawn(serve(tcp, spawner.clone()));
            }
        });
        let (pool, hop) = pool_to(addr, &tasks);
        Self { pool, own: ROOT.own("near"), hop, tasks, dials }
    }

    async fn open(&self) -> Result<TunnelStream, ConnectError> {
        let request = ConnectRequest {
            authority: "10.0.0.1:80".parse().unwrap(),
            client: "10.0.0.9:4242".parse().unwrap(),
            service: None,
            baggage: String::new(),
            network: None,
        };
        let opened = self.pool.open(&self.own, &self.hop, (&request, b""), &Ticket::alone()).await;
        opened.map(|(stream, _)| stream)
    }

    fn dials(&self) -> usize {
        self.dials.load(Relaxed)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

async fn tls(tcp: TcpStream) -> TlsStream<TcpStream> {
    let config = Arc::new(ROOT.rustls_server("far", SUITE));
    tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.expect("TLS")
}

/// Has room for ten streams in a tunnel, and refuses what comes before it could say so.
async fn ten_places(tcp: TcpStream, tasks: Tasks) {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(10)
        .handshake::<_, Bytes>(tls(tcp).await)
        .await
        .expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let send = respond.send_response(http::Response::new(()), false).unwrap();
        tasks.spawn(async move {
            let _held = (send, request);
            std::future::pending::<()>().await;
        });
    }
}

fn few_places() {
    run(async {
        let ends = Ends::new(ten_places).await;
        let opened = futures_util::future::join_all((0..40).map(|_| ends.open())).await;
        let failed = opened.iter().filter_map(|o| o.as_ref().err()).collect::<Vec<_>>();
        assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
        assert!(ends.dials() <= 5, "{} tunnels for 40 streams, ten in each", ends.dials());
    });
}

/// One that idles for ten seconds ends; those that nobody needs beside it do so sooner.
fn surplus() {
    run(async {
        let live = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&live);
        let ends = Ends::new(move |tcp, tasks| {
            let live = Arc::clone(&count);
            async move {
                live.fetch_add(1, Relaxed);
                ten_places(tcp, tasks).await;
                live.fetch_sub(1, Relaxed);
            }
        })
        .await;
        let opened = futures_util::future::join_all((0..40).map(|_| ends.open())).await;
        assert!(opened.iter().all(Result::is_ok) && live.load(Relaxed) >= 4);
        drop(opened);
        let one_left = async {
            while live.load(Relaxed) > 1 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(6), one_left).await.expect("the others end");
        let before = ends.dials();
        assert!(ends.open().await.is_ok() && ends.dials() == before, "that one still serves");
    });
}

async fn resets_all(tcp: TcpStream, _: Tasks) {
    let mut connection = h2::server::handshake(tls(tcp).await).await.expect("HTTP/2");
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_reset(h2::Reason::CONNECT_ERROR);
    }
}

/// RFC 9113 §8.5: CONNECT_ERROR tells of the application behind the peer.
fn reset_requests() {
    run(async {
        let ends = Ends::new(resets_all).await;
        for _ in 0..20 {
            assert!(ends.open().await.is_err());
        }
        assert_eq!(ends.dials(), 1, "it is still good for others");
    });
}

/// Nobody asks for another stream, so nobody looks through the pool.
fn broken_tunnel() {
    run(async {
        let (say, said) = tokio::sync::oneshot::channel();
        let say = std::sync::Mutex::new(Some(say));
        let ends = Ends::new(move |tcp, _| {
            let say = say.lock().unwrap().take();
            async move {
                let mut tls = tls(tcp).await;
                let settings_and_a_stray_ping =
                    [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 6, 0, 0, 0, 0, 1];
                tls.write_all(&settings_and_a_stray_ping).await.unwrap();
                tls.write_all(&[0; 8]).await.unwrap();
                let _ = tls.read_to_end(&mut Vec::new()).await;
                // Now the same of TCP.
                let end = timeout(Duration::from_secs(3), tls.get_mut().0.read(&mut [0; 1])).await;
                let _ = say.unwrap().send(end.is_ok());
            }
        })
        .await;
        assert!(ends.open().await.is_err());
        assert!(said.await.unwrap(), "the socket stays open");
    });
}

/// An inbound side that answers and does nothing more, as whoever `own` says.
async fn adit(tcp: TcpStream, tasks: Tasks, own: LocalIdentity) {
    let peer = tcp.peer_addr().unwrap();
    let (acceptor, within) = (Acceptor::default(), Duration::from_secs(10));
    let Ok(session) = acceptor.accept(tcp, &own.svid, &own.bundles, within).await else { return };
    let handle = |incoming: Box<Incoming>| async {
        let _held = incoming.accept(None);
        std::future::pending::<()>().await;
    };
    let (config, draining) = (TunnelConfig::default(), CancellationToken::new());
    let who = caller(&session, peer);
    let _ = serve(
        session,
        TunnelParams { peer, config: &config, caller: &who, tasks: &tasks, draining },
        handle,
    )
    .await;
}

/// The peer's lasts for three seconds and is never renewed.
fn expired_peer() {
    run(async {
        let own = ROOT.own_for("far", Duration::from_secs(3));
        let ends = Ends::new(move |tcp, tasks| adit(tcp, tasks, own.clone())).await;
        let _held = ends.open().await.expect("while it lasts");
        assert!(ends.open().await.is_ok());
        sleep(Duration::from_millis(4_100)).await;
        let Err(late) = ends.open().await else { panic!("opened under an expired SVID") };
        assert!(late.to_string().contains("expired"), "{late}");
        assert_eq!(ends.dials(), 2);
    });
}

/// Under the new one is asked as the new one: the peer sees its serial number.
fn renewed() {
    run(async {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let say = Arc::clone(&seen);
        let mut ends = Ends::new(move |tcp, tasks| {
            let seen = Arc::clone(&say);
            async move {
                let (own, within) = (ROOT.own("far"), Duration::from_secs(10));
                let peer = tcp.peer_addr().unwrap();
                let acceptor = Acceptor::default();
                let accepted = acceptor.accept(tcp, &own.svid, &own.bundles, within).await;
                let session = accepted.unwrap();
                let serial = adit::identity::parse_leaf(&session.peer.chain[0]).unwrap().serial;
                let handle = move |incoming: Box<Incoming>| {
                    seen.lock().unwrap().push(serial.clone());
                    async {
                        let _held = incoming.accept(None);
                        std::future::pending::<()>().await;
                    }
                };
                let (config, draining) = (TunnelConfig::default(), CancellationToken::new());
                let who = caller(&session, peer);
                let _ = serve(
                    session,
                    TunnelParams { peer, config: &config, caller: &who, tasks: &tasks, draining },
                    handle,
                )
                .await;
            }
        })
        .await;
        let mut held = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..2 {
            for _ in 0..3 {
                held.push(ends.open().await.unwrap());
                expected.push(ends.own.svid.serial.clone());
            }
            ends.own = ROOT.own("near");
        }
        assert_eq!(ends.dials(), 2);
        assert_eq!(*seen.lock().unwrap(), expected);
    });
}

/// Who refused it may do so again: only what was dialled since is sure to know better.
fn refused_once() {
    run(async {
        let first = AtomicUsize::new(0);
        let ends = Ends::new(move |tcp, tasks| {
            let refuses = first.fetch_add(1, Relaxed) == 0;
            async move {
                if !refuses {
                    return ten_places(tcp, tasks).await;
                }
                let handshake = h2::server::handshake(tls(tcp).await);
                let mut connection = handshake.await.expect("HTTP/2");
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            }
        })
        .await;
        let opened = ends.open().await.map(drop);
        assert!(opened.is_ok(), "{opened:?}");
        assert_eq!(ends.dials(), 2);
    });
}

/// The tunnel that is open belongs to whom it was dialled for, not to who is expected now.
fn another_peer() {
    run(async {
        let own = ROOT.own("far");
        let mut ends = Ends::new(move |tcp, tasks| adit(tcp, tasks, own.clone())).await;
        let _held = ends.open().await.expect("whom it expects");
        let before = std::mem::replace(&mut ends.hop.expect, vec![spiffe("other")]);
        let Err(refused) = ends.open().await else { panic!("opened towards somebody else") };
        assert!(refused.to_string().contains("/sa/far"), "{refused}");
        ends.hop.expect = before;
        assert!(ends.open().await.is_ok());
        assert_eq!(ends.dials(), 2, "the first tunnel still serves whom it was for");
    });
}

/// Leads to the peer as a gateway does that is not asked anything.
struct Straight;

impl Underlay for Straight {
    fn connect<'a>(
        &'a self,
        _: &'a LocalIdentity,
        hop: &'a Hop,
    ) -> BoxFuture<'a, Result<TcpStream, ConnectError>> {
        let addr = hop.addr;
        let tcp = async move {
            let tcp = TcpStream::connect(addr).await;
            tcp.map_err(|e| ConnectError::Tcp { addr, source: Arc::new(e) })
        };
        tcp.boxed()
    }
}

fn beyond() {
    run(async {
        let own = ROOT.own("far");
        let mut ends = Ends::new(move |tcp, tasks| adit(tcp, tasks, own.clone())).await;
        ends.hop.expect = vec![spiffe("other")];
        let Err(refused) = ends.open().await else { panic!("opened towards somebody else") };
        assert!(matches!(refused, ConnectError::Tls { .. }), "{refused}");
        let (pool, _) = pool_to(ends.hop.addr, &ends.tasks);
        ends.pool = pool.over(Arc::new(Straight));
        let (gateway, hostname) = (vec![spiffe("gateway")], "db.shop".into());
        ends.hop.through = Some(Arc::new(Through { gateway, hostname, port: 80 }));
        let Err(refused) = ends.open().await else { panic!("opened towards somebody else") };
        assert!(matches!(refused, ConnectError::TlsThrough { .. }), "{refused}");
        assert!(refused.is_handshake() && refused.to_string().contains("/sa/far"), "{refused}");
    });
}

/// What resumes a session shows no certificate.
fn tickets() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        let spawner = tasks.clone();
        tasks.spawn(async move {
            let own = ROOT.own("far");
            while let Ok((tcp, _)) = listener.accept().await {
                spawner.spawn(adit(tcp, spawner.clone(), own.clone()));
            }
        });
        let config = Arc::new(ROOT.rustls_client("near", SUITE));
        for n in 0..2 {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            let tcp = TcpStream::connect(addr).await.unwrap();
            let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
            let mut tls = tls;
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            tls.write_all(preface).await.unwrap();
            tls.read_exact(&mut [0; 9]).await.expect("its SETTINGS, behind any ticket");
            let session = tls.get_ref().1;
            assert_eq!(session.tls13_tickets_received(), 0, "connection {n}");
            assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
        tasks.cut();
    });
}
