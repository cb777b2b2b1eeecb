//! Tunnels with an HTTP/2 and a TLS that are not ours: the h2 crate over rustls, both ways,
//! which takes new keys every few writes.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use adit::{
    ca::EmbeddedCa,
    identity::{BundleSet, SpiffeId, X509Svid},
    lifecycle::Tasks,
    relay::{self, App},
    sys::netns::Netns,
    tls::Acceptor,
    tunnel::{
        Hop, Own, Pool, TunnelConfig,
        connect::{Authority, ConnectRequest},
        server,
    },
};
use bytes::Bytes;
use pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::forge::TrustAnybody;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("peers::the_h2_crate_calls_us", the_h2_crate_calls_us),
    ("peers::we_call_the_h2_crate", we_call_the_h2_crate),
    ("peers::we_call_ourselves", we_call_ourselves),
];

/// What is carried: around the sizes of records, frames and windows.
const SIZES: [usize; 12] =
    [0, 1, 1000, 4096, 4097, 16_374, 16_375, 16_384, 16_385, 65_536, 300_000, 5_000_000];

fn pattern(size: usize) -> Vec<u8> {
    let byte = |n: usize| ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..size).map(byte).collect()
}

struct World {
    bundles: Arc<BundleSet>,
    web: Arc<X509Svid>,
    db: Arc<X509Svid>,
    _dir: tempfile::TempDir,
}

fn run<F: Future<Output = ()>>(scenario: impl FnOnce(World) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let ca =
        EmbeddedCa::open(dir.path(), &"td".parse().unwrap(), Duration::from_secs(3600)).unwrap();
    let mut bundles = BundleSet::default();
    bundles.insert(ca.bundle());
    let issue = |id: &str| Arc::new(ca.issue(&id.parse::<SpiffeId>().unwrap()).unwrap());
    let (web, db) = (issue("spiffe://td/ns/shop/sa/web"), issue("spiffe://td/ns/shop/sa/db"));
    let world = World { bundles: Arc::new(bundles), web, db, _dir: dir };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, scenario(world)).await.unwrap() });
}

/// Takes new sending keys every few writes.
struct Rekeying {
    tls: TlsStream<TcpStream>,
    writes: u32,
}

impl AsyncRead for Rekeying {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rekeying {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes += 1;
        if self.writes.is_multiple_of(5) {
            match &mut self.tls {
                TlsStream::Client(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
                TlsStream::Server(tls) => tls.get_mut().1.refresh_traffic_keys().unwrap(),
            }
        }
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

fn credentials(
    svid: &X509Svid,
) -> (Vec<pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (svid.chain.clone(), PrivatePkcs8KeyDer::from(svid.key.pkcs8().to_vec()).into())
}

async fn rustls_client(world: &World, addr: SocketAddr) -> Rekeying {
    let (chain, key) = credentials(&world.web);
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::IpAddress(addr.ip().into());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    Rekeying { tls: tls.into(), writes: 0 }
}

/// An application that sends back what it got, to its end.
async fn echo_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    addr
}

/// Our server end as the database, before an application that echoes.
async fn our_server(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (app, svid, bundles) =
        (echo_app().await, Arc::clone(&world.db), Arc::clone(&world.bundles));
    tokio::spawn(async move {
        let within = Duration::from_secs(10);
        while let Ok((tcp, peer)) = listener.accept().await {
            let session = Acceptor::default().accept(tcp, &svid, &bundles, within).await.unwrap();
            tokio::spawn(async move {
                let tasks = Tasks::default();
                let handle = |incoming: server::Incoming| async move {
                    let dialled = TcpStream::connect(app).await.unwrap();
                    let mut stream = incoming.accept("baggage").unwrap();
                    relay::run(App::new(dialled), &mut stream, &Arc::default(), None).await;
                };
                let stop = CancellationToken::new();
                let _ = server::serve(session, peer, within, &tasks, stop, handle).await;
            });
        }
    });
    addr
}

/// Sends on one h2 stream and reads back what comes.
async fn h2_echo(mut send: h2::SendStream<Bytes>, mut receive: h2::RecvStream, size: usize) {
    let sender = async {
        let mut left = Bytes::from(pattern(size));
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(left.split_to(room.min(left.len())), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
    };
    let receiver = async {
        let mut got = Vec::new();
        while let Some(data) = receive.data().await {
            let data = data.unwrap();
            receive.flow_control().release_capacity(data.len()).unwrap();
            got.extend_from_slice(&data);
        }
        assert!(got == pattern(size), "{size} bytes came back as {}", got.len());
    };
    tokio::join!(sender, receiver);
}

fn the_h2_crate_calls_us() {
    run(|world| async move {
        let addr = our_server(&world).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 18).initial_connection_window_size(1 << 20);
        let (client, driver) = builder.handshake(rustls_client(&world, addr).await).await.unwrap();
        tokio::spawn(driver);
        let calls = SIZES.iter().flat_map(|size| [*size, *size]).map(|size| {
            let client = client.clone();
            async move {
                let request = http::Request::connect("10.0.0.1:80").body(()).unwrap();
                let mut client = client.ready().await.unwrap();
                let (answer, send) = client.send_request(request, false).unwrap();
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.headers()["baggage"], "baggage");
                h2_echo(send, answer.into_body(), size).await;
            }
        });
        futures_util::future::join_all(calls).await;
    });
}

/// The h2 crate as an HBONE server that echoes on every stream.
async fn h2_server(world: &World) -> SocketAddr {
    let (chain, key) = credentials(&world.db);
    let mut roots = rustls::RootCertStore::empty();
    for bundle in world.bundles.iter() {
        bundle.authorities.iter().for_each(|der| roots.add(der.clone()).unwrap());
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let tls = acceptor.accept(tcp).await.unwrap().into();
                let mut tunnel = h2::server::handshake(Rekeying { tls, writes: 0 }).await.unwrap();
                while let Some(Ok((request, mut respond))) = tunnel.accept().await {
                    tokio::spawn(async move {
                        let mut send =
                            respond.send_response(http::Response::new(()), false).unwrap();
                        let mut body = request.into_body();
                        while let Some(data) = body.data().await {
                            let mut data = data.unwrap();
                            let _ = body.flow_control().release_capacity(data.len());
                            while !data.is_empty() {
                                send.reserve_capacity(data.len());
                                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                                let room = room.unwrap().unwrap().min(data.len());
                                send.send_data(data.split_to(room), false).unwrap();
                            }
                        }
                        send.send_data(Bytes::new(), true).unwrap();
                    });
                }
            });
        }
    });
    addr
}

fn we_call_the_h2_crate() {
    run(|world| async move { call(&world, h2_server(&world).await).await });
}

fn we_call_ourselves() {
    run(|world| async move { call(&world, our_server(&world).await).await });
}

/// Applications that call through our pool and expect an echo.
async fn call(world: &World, addr: SocketAddr) {
    let netns = Arc::new(Netns::current().unwrap());
    let stop = CancellationToken::new();
    let pool = Pool::new(netns, TunnelConfig::default(), Tasks::default(), stop);
    let hop = Hop { addr, expect: vec![world.db.id.clone()] };
    let calls = SIZES.iter().flat_map(|size| [*size, *size]).map(|size| {
        let (pool, hop) = (&pool, &hop);
        async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (near, client) = listener.accept().await.unwrap();
            let request = ConnectRequest {
                authority: Authority::Addr("10.0.0.1:80".parse().unwrap()),
                client,
                service: None,
                baggage: String::new(),
            };
            let own = Own { svid: Arc::clone(&world.web), bundles: Arc::clone(&world.bundles) };
            let (mut stream, peer) = pool.open(&own, hop, &request, b"first").await.unwrap();
            assert_eq!(peer.id, world.db.id);
            let meter = Arc::default();
            let relayed = relay::run(App::new(near), &mut stream, &meter, None);
            let (mut from, mut to) = app.into_split();
            let say = async move {
                for part in pattern(size).chunks(size / 3 + 1) {
                    to.write_all(part).await.unwrap();
                }
                to.shutdown().await.unwrap();
                to
            };
            let mut got = Vec::new();
            let (end, _to, read) = tokio::join!(relayed, say, from.read_to_end(&mut got));
            read.unwrap();
            assert!(matches!(end, relay::End::Completed), "{size}: {end:?}");
            assert!(got == [b"first", &pattern(size)[..]].concat(), "{size} as {}", got.len());
        }
    });
    futures_util::future::join_all(calls).await;
}
