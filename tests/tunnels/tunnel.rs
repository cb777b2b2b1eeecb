//! A tunnel between a near and a far end, either of which may be adit or the h2 crate, and
//! the applications at both sides of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use adit::{
    hbone::{
        Caller, Callers, Hop, Pool, TunnelConfig,
        connect::{Authority, ConnectRequest},
        order::Ticket,
        server::{Incoming, TunnelParams, serve},
    },
    identity::LocalIdentity,
    lifecycle::Tasks,
    observe::conn::Meter,
    relay::{self, App},
    sys::netns::Netns,
    tls::{Acceptor, Session},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 as SUITE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    peer::bridge,
    svids::{ROOT, spiffe},
};

const NO_LIMITS: adit::relay::Limits = adit::relay::Limits { idle: None, half_closed: None };

/// Who is at which end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ends {
    Adit,
    AditToH2,
    H2ToAdit,
}

pub(crate) const ALL: [Ends; 3] = [Ends::Adit, Ends::AditToH2, Ends::H2ToAdit];

/// Runs `work` as adit's workers do, on one thread; a test that hangs fails.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async { tokio::time::timeout(Duration::from_secs(30), work).await };
    runtime.block_on(work).expect("nothing hangs")
}

enum Near {
    Adit { pool: Box<Pool>, own: LocalIdentity, hop: Hop },
    H2(h2::client::SendRequest<Bytes>),
}

pub(crate) struct Tunnel {
    near: Near,
    tasks: Tasks,
    /// The far end's relays, in the order of their streams.
    pub(crate) meters: Meters,
    /// How many streams each tunnel of the far end has taken.
    pub(crate) taken: Taken,
    /// The sockets of the wire, to be cut.
    wire: CancellationToken,
}

type Meters = Arc<Mutex<Vec<Arc<Meter>>>>;
type Taken = Arc<Mutex<Vec<usize>>>;

impl Tunnel {
    pub(crate) async fn new(ends: Ends) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tasks, wire) = (Tasks::default(), CancellationToken::new());
        let (meters, taken) = (Meters::default(), Taken::default());
        match ends {
            Ends::AditToH2 => tasks.spawn(h2_server(listener, tasks.clone())),
            _ => {
                let seen = (Arc::clone(&meters), Arc::clone(&taken));
                tasks.spawn(adit_server(listener, tasks.clone(), seen));
            }
        }
        let addr = cuttable(addr, &tasks, wire.clone()).await;
        let near = match ends {
            Ends::H2ToAdit => Near::H2(h2_client(addr, &tasks).await),
            _ => {
                let (pool, hop) = pool_to(addr, &tasks);
                Near::Adit { pool: Box::new(pool), own: ROOT.own("near"), hop }
            }
        };
        Self { near, tasks, meters, taken, wire }
    }

    /// From adit to the worker that listens there, by a wire that is not cut.
    pub(crate) async fn to(addr: SocketAddr) -> Self {
        let tasks = Tasks::default();
        let (pool, hop) = pool_to(addr, &tasks);
        let near = Near::Adit { pool: Box::new(pool), own: ROOT.own("near"), hop };
        let (meters, taken, wire) = Default::default();
        Self { near, tasks, meters, taken, wire }
    }

    /// Cuts the connection in the middle of whatever it carries.
    pub(crate) fn cut(&self) {
        self.wire.cancel();
    }

    /// An application's socket whose other end is that of whoever accepts at `to`.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<TcpStream, String> {
        self.ask(Authority::Addr(to)).await
    }

    pub(crate) async fn ask(&self, authority: Authority) -> Result<TcpStream, String> {
        let (app, socket) = pair().await;
        match &self.near {
            Near::Adit { pool, own, hop } => {
                let request = ConnectRequest {
                    authority,
                    client: app.local_addr().unwrap(),
                    service: None,
                    baggage: "k8s.namespace.name=shop".into(),
                    network: None,
                };
                let opened = pool
                    .open(own, hop, (&request, b""), &Ticket::alone())
                    .await
                    .map_err(|e| e.to_string())?;
                let (mut stream, proven) = opened;
                assert_eq!(proven.peer.id, spiffe("far"));
                let meter = Arc::default();
                self.tasks.spawn(async move {
                    relay::run(
                        &mut App::new(socket),
                        &mut stream,
                        &meter,
                        &adit::relay::Limits::default(),
                    )
                    .await;
                });
            }
            Near::H2(send) => {
                let mut send = send.clone().ready().await.map_err(|e| e.to_string())?;
                let connect = Request::builder().method(Method::CONNECT).uri(authority.to_string());
                let sent = send.send_request(connect.body(()).unwrap(), false);
                let (answer, up) = sent.map_err(|e| e.to_string())?;
                let answer = answer.await.map_err(|e| e.to_string())?;
                assert_eq!(answer.status(), 200);
                self.tasks.spawn(bridge(socket, up, answer.into_body()));
            }
        }
        Ok(app)
    }
}

/// A pool that has not dialled yet, and where it is to go.
pub(crate) fn pool_to(addr: SocketAddr, tasks: &Tasks) -> (Pool, Hop) {
    let netns = Arc::new(Netns::current().unwrap());
    let config = TunnelConfig { idle: Duration::from_secs(10), ..TunnelConfig::default() };
    let pool = Pool::new(netns, config, tasks.clone(), CancellationToken::new());
    (pool, Hop::new(addr, vec![spiffe("far")]))
}

impl Tunnel {
    /// The near end without an application (h2 crate).
    pub(crate) async fn stream(&self, to: SocketAddr) -> h2::SendStream<Bytes> {
        let Near::H2(send) = &self.near else { panic!("the near end is adit") };
        let connect = Request::builder().method(Method::CONNECT).uri(to.to_string());
        let mut send = send.clone().ready().await.unwrap();
        let (answer, up) = send.send_request(connect.body(()).unwrap(), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        up
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap());
    let (caller, answerer) = tokio::join!(caller, listener.accept());
    (caller.unwrap(), answerer.unwrap().0)
}

/// A port that leads to `to` by a plain relay, until it is cut.
async fn cuttable(to: SocketAddr, tasks: &Tasks, cut: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            near.set_nodelay(true).unwrap();
            let cut = cut.clone();
            spawner.spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                far.set_nodelay(true).unwrap();
                let copy = tokio::io::copy_bidirectional(&mut near, &mut far);
                tokio::select! {
                    _ = copy => {}
                    () = cut.cancelled() => {}
                }
            });
        }
    });
    addr
}

/// The far end by itself, and where it listens.
pub(crate) async fn worker(here: std::sync::mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    here.send(listener.local_addr().unwrap()).unwrap();
    adit_server(listener, Tasks::default(), Default::default()).await;
}

async fn adit_server(listener: TcpListener, tasks: Tasks, (meters, taken): (Meters, Taken)) {
    let own = ROOT.own("far");
    let callers = Callers::default();
    while let Ok((tcp, peer)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        let callers = callers.clone();
        let within = Duration::from_secs(10);
        let (own, tasks, meters) = (own.clone(), tasks.clone(), Arc::clone(&meters));
        let taken = Arc::clone(&taken);
        tasks.clone().spawn(async move {
            let accept = Acceptor::default();
            let Ok(session) = accept.accept(tcp, &own.svid, &own.bundles, within).await else {
                return;
            };
            assert!([spiffe("near"), spiffe("many")].contains(&session.peer.id));
            taken.lock().unwrap().push(0);
            let which = taken.lock().unwrap().len() - 1;
            let handle = |incoming: Box<Incoming>| {
                taken.lock().unwrap()[which] += 1;
                let meter = Arc::new(Meter::default());
                meters.lock().unwrap().push(Arc::clone(&meter));
                deliver(incoming, meter)
            };
            let draining = CancellationToken::new();
            let config = TunnelConfig::default();
            let who = callers.enter(&session.peer.id, peer.ip(), Instant::now()).unwrap();
            let _ = serve(
                session,
                TunnelParams { peer, config: &config, caller: &who, tasks: &tasks, draining },
                handle,
            )
            .await;
        });
    }
}

/// One of a pod that has no other.
pub(crate) fn caller(session: &Session, peer: SocketAddr) -> Caller {
    let callers = Callers::default();
    callers.enter(&session.peer.id, peer.ip(), Instant::now()).unwrap()
}

/// As the inbound side of a node: the application is the relay's far socket.
async fn deliver(incoming: Box<Incoming>, meter: Arc<Meter>) {
    let Some(Authority::Addr(to)) = incoming.authority() else { panic!("an address") };
    let Ok(tcp) = TcpStream::connect(to).await else {
        return incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
    };
    let Some(mut stream) = incoming.accept(None) else { return };
    relay::run(&mut App::new(tcp), &mut stream, &meter, &adit::relay::Limits::default()).await;
}

async fn h2_server(listener: TcpListener, tasks: Tasks) {
    let config = Arc::new(ROOT.rustls_server("far", SUITE));
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        let (config, tasks) = (Arc::clone(&config), tasks.clone());
        tasks.clone().spawn(async move {
            let tls = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.expect("TLS");
            let mut connection = h2::server::Builder::new()
                .initial_window_size(4_000_000)
                .initial_connection_window_size(64 << 20)
                .handshake::<_, Bytes>(tls)
                .await
                .expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.method(), Method::CONNECT);
                if request.uri().host() == Some("cut.short") {
                    tasks
                        .spawn(cut_short(respond.send_response(Response::new(()), false).unwrap()));
                    continue;
                }
                if request.uri().host() == Some("enough.said") {
                    let send = respond.send_response(Response::new(()), false).unwrap();
                    tasks.spawn(enough_said(send, request.into_body()));
                    continue;
                }
                let to: SocketAddr = request.uri().to_string().parse().expect("an address");
                tasks.spawn(async move {
                    let Ok(tcp) = TcpStream::connect(to).await else {
                        let refused = Response::builder().status(503).body(()).unwrap();
                        return drop(respond.send_response(refused, true));
                    };
                    if let Ok(send) = respond.send_response(Response::new(()), false) {
                        bridge(tcp, send, request.into_body()).await;
                    }
                });
            }
        });
    }
}

/// Ends with RST_STREAM NO_ERROR, as some proxies do whatever the reason, but no END_STREAM.
async fn cut_short(mut send: h2::SendStream<Bytes>) {
    send.send_data(Bytes::from_static(b"some of it"), false).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send.send_reset(h2::Reason::NO_ERROR);
}

/// Says as much as is taken, ends in order and wants no more (RFC 9113 §8.1), while it still
/// takes what comes.
async fn enough_said(mut send: h2::SendStream<Bytes>, mut body: h2::RecvStream) {
    let take = async {
        while let Some(Ok(bytes)) = body.data().await {
            let _ = body.flow_control().release_capacity(bytes.len());
        }
    };
    let say = async {
        loop {
            send.reserve_capacity(100_000);
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(300), room).await {
                Ok(Some(Ok(n))) => send.send_data(vec![7; n].into(), false).unwrap(),
                _ => break,
            }
        }
        send.send_data(Bytes::new(), true).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await; // else h2 forgets what waits
        send.send_reset(h2::Reason::NO_ERROR);
    };
    tokio::select! { () = take => {}, () = say => {} }
}

async fn h2_client(addr: SocketAddr, tasks: &Tasks) -> h2::client::SendRequest<Bytes> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(ROOT.rustls_client("near", SUITE)));
    let tcp = TcpStream::connect(addr).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(200_000)
        .initial_connection_window_size(8 << 20)
        .handshake(tls)
        .await
        .expect("HTTP/2");
    tasks.spawn(async move {
        let _ = connection.await;
    });
    send
}

/// Sends a forged record together with its Finished, to adit; what it is told.
pub(crate) async fn forge_behind_the_handshake() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tasks = Tasks::default();
    tasks.spawn(adit_server(listener, tasks.clone(), Default::default()));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(ROOT.rustls_client("near", SUITE)));
    let tcp = TcpStream::connect(addr).await.unwrap();
    // What is written in a row arrives as one.
    socket2::SockRef::from(&tcp).set_tcp_cork(true).unwrap();
    let mut tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
    let forged = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    tls.get_mut().0.write_all(&forged).await.unwrap();
    let mut bytes = Vec::new();
    let told = tls.read_to_end(&mut bytes).await;
    told.map_or_else(|e| e.to_string(), |_| "an orderly end".into())
}

/// A client whose kernel takes little at once, of an adit whose application says a million bytes
/// and ends; and how that adit is told to go.
pub(crate) async fn slow_reader() -> (TlsStream<TcpStream>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, draining) = (listener.local_addr().unwrap(), CancellationToken::new());
    let stop = draining.clone();
    tokio::spawn(async move {
        let (tcp, peer) = listener.accept().await.unwrap();
        let (own, tasks, within) = (ROOT.own("far"), Tasks::default(), Duration::from_secs(10));
        let session = Acceptor::default().accept(tcp, &own.svid, &own.bundles, within).await;
        let handle = |incoming: Box<Incoming>| async {
            let (mut app, socket) = pair().await;
            let mut stream = incoming.accept(None).unwrap();
            let say = async {
                app.write_all(&[7; 1_000_000]).await.unwrap();
                app.shutdown().await.unwrap();
            };
            let meter = Arc::default();
            let mut near = App::new(socket);
            tokio::join!(say, relay::run(&mut near, &mut stream, &meter, &NO_LIMITS));
        };
        let config = TunnelConfig::default();
        let session = session.unwrap();
        let who = caller(&session, peer);
        let _ = serve(
            session,
            TunnelParams { peer, config: &config, caller: &who, tasks: &tasks, draining: stop },
            handle,
        )
        .await;
    });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let tcp = socket.connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(ROOT.rustls_client("near", SUITE)));
    let tls = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.expect("TLS");
    (tls, draining)
}
