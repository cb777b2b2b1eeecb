//! An istiod whose every response a test decides: delta ADS over TLS, on a runtime of its own that
//! can be killed.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "each binary takes what it needs; its runtime owns its tasks"
)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use adit::{
    credentials::{Duplex, Socket},
    rpc::{
        discovery::{
            Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
        istio_ca::{
            IstioCertificateRequest, IstioCertificateResponse,
            istio_certificate_service_server::{
                IstioCertificateService, IstioCertificateServiceServer,
            },
        },
    },
};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{
        Server,
        server::{Connected, Router},
    },
};

use super::pki::{Ca, Leaf};

pub(crate) const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
pub(crate) const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// How long anything may take that must happen.
const LIMIT: Duration = Duration::from_secs(40);

/// A running one.
pub(crate) struct FakeIstiod {
    pub(crate) addr: SocketAddr,
    streams: mpsc::UnboundedReceiver<FakeStream>,
    goaway: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

/// A stream that a node has opened.
pub(crate) struct FakeStream {
    /// The headers that came with it.
    pub(crate) headers: MetadataMap,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonces: usize,
    /// How long it waits for a request.
    pub(crate) limit: Duration,
}

impl FakeIstiod {
    /// Listens on loopback and shows `leaf`.
    pub(crate) fn start(leaf: &Leaf) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), leaf)
    }

    /// The same where one was that has ended.
    pub(crate) fn start_at(addr: SocketAddr, leaf: &Leaf) -> Self {
        Self::start_with(addr, leaf, None)
    }

    /// The same, and it signs whatever identity is asked for.
    pub(crate) fn start_signing(addr: SocketAddr, leaf: &Leaf, ca: Arc<Ca>) -> Self {
        Self::start_with(addr, leaf, Some(Signs(ca)))
    }

    fn start_with(addr: SocketAddr, leaf: &Leaf, signs: Option<Signs>) -> Self {
        let (say, streams) = mpsc::unbounded_channel();
        let services = Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Ads(say)))
            .add_optional_service(signs.map(IstioCertificateServiceServer::new));
        let (goaway, told) = oneshot::channel();
        let (addr, runtime) = serve_at(addr, leaf, services, told);
        Self { addr, streams, goaway: Some(goaway), runtime: Some(runtime) }
    }

    /// The next stream that is opened.
    pub(crate) async fn stream(&mut self) -> FakeStream {
        let stream = timeout(LIMIT, self.streams.recv()).await.expect("a stream within 40 s");
        stream.expect("the server runs")
    }

    /// No further connections, and GOAWAY on those that there are, as at the end of their age.
    /// Their streams go on until they are ended.
    pub(crate) fn go_away(&mut self) {
        if let Some(goaway) = self.goaway.take() {
            let _ = goaway.send(());
        }
    }

    /// Nothing of it is left: sockets are closed by the kernel.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One on the runtime of the test, which hands it each connection: no byte of it is on its way
/// anywhere else while the clock of that runtime is paused.
pub(crate) struct FakeHere {
    streams: mpsc::UnboundedReceiver<FakeStream>,
    door: Door,
}

impl FakeHere {
    /// Shows `leaf` and has identities signed by `ca`.
    pub(crate) fn new(leaf: &Leaf, ca: impl IstioCertificateService) -> Self {
        let (say, streams) = mpsc::unbounded_channel();
        let services = Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Ads(say)))
            .add_service(IstioCertificateServiceServer::new(ca));
        let (door, conns) = Door::new(acceptor(leaf));
        tokio::spawn(services.serve_with_incoming(conns));
        Self { streams, door }
    }

    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    /// The next stream that is opened.
    pub(crate) async fn stream(&mut self) -> FakeStream {
        self.streams.recv().await.expect("the server runs")
    }
}

impl Drop for FakeIstiod {
    fn drop(&mut self) {
        self.end();
    }
}

impl FakeStream {
    /// The next request.
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request =
            timeout(self.limit, self.requests.message()).await.expect("a request in time");
        request.expect("the stream goes on").expect("the node does not end it")
    }

    /// How many requests have come and were not looked at yet; none of them refuses anything.
    pub(crate) fn heard(&mut self) -> usize {
        let mut heard = 0;
        while let Some(request) = self.requests.message().now_or_never() {
            let request = request.expect("the stream goes on").expect("the node does not end it");
            assert_eq!(request.error_detail, None);
            heard += 1;
        }
        heard
    }

    /// The next request, however long that takes; `None` once the node ends it.
    pub(crate) async fn any_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.requests.message().await.ok().flatten()
    }

    /// Both first requests: Address, then Authorization.
    pub(crate) async fn first(&mut self) -> [DeltaDiscoveryRequest; 2] {
        let both = [self.request().await, self.request().await];
        assert_eq!(both.each_ref().map(|r| &*r.type_url), [ADDRESS, AUTHORIZATION]);
        both
    }

    /// Sends a response, and gives its nonce.
    pub(crate) async fn send(&mut self, mut response: DeltaDiscoveryResponse) -> String {
        self.nonces += 1;
        response.nonce = format!("nonce-{}", self.nonces);
        let nonce = response.nonce.clone();
        let sent = timeout(LIMIT, self.responses.send(Ok(response))).await;
        sent.expect("the node reads").expect("the stream goes on");
        nonce
    }

    /// Sends resources to whoever may be there still.
    pub(crate) async fn says(&mut self, type_url: &str, resources: Vec<Resource>) {
        self.nonces += 1;
        let response = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: format!("nonce-{}", self.nonces),
            resources,
            ..DeltaDiscoveryResponse::default()
        };
        let _ = self.responses.send(Ok(response)).await;
    }

    /// Sends resources and removals, and gives the answer to just these.
    pub(crate) async fn push(
        &mut self,
        type_url: &str,
        resources: Vec<Resource>,
        removed: &[&str],
    ) -> DeltaDiscoveryRequest {
        let response = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            system_version_info: "2026-11-29T01:46:47Z/6".into(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let nonce = self.send(response).await;
        let answer = self.request().await;
        assert_eq!((&*answer.response_nonce, &*answer.type_url), (&*nonce, type_url));
        answer
    }

    /// Ends it as istiod does.
    pub(crate) fn end(self) {}

    /// Waits until the node ends it, whatever it says until then.
    pub(crate) async fn ended(mut self) {
        while self.any_request().await.is_some() {}
    }

    /// Ends it with an error.
    pub(crate) async fn fail(self, status: Status) {
        let _ = self.responses.send(Err(status)).await;
    }
}

/// A resource with this content.
pub(crate) fn resource(
    type_url: &str,
    name: &str,
    version: &str,
    message: &impl prost::Message,
) -> Resource {
    let content = Any { type_url: type_url.into(), value: message.encode_to_vec().into() };
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(content),
        aliases: Vec::new(),
    }
}

struct Ads(mpsc::UnboundedSender<FakeStream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, to_send) = mpsc::channel(16);
        let headers = request.metadata().clone();
        let requests = request.into_inner();
        let stream = FakeStream { headers, requests, responses, nonces: 0, limit: LIMIT };
        self.0.send(stream).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(to_send.into()))
    }
}

/// Its CA.
struct Signs(Arc<Ca>);

#[tonic::async_trait]
impl IstioCertificateService for Signs {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if !request.metadata().contains_key("authorization") {
            return Err(Status::unauthenticated("there is no token"));
        }
        let leaf = self.0.sign(&request.get_ref().csr);
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, self.0.pem.clone()] }))
    }
}

pub(crate) fn acceptor(leaf: &Leaf) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), leaf.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

/// Serves at this address, showing `leaf`, on a runtime that the caller keeps.
pub(crate) fn serve_at(
    addr: SocketAddr,
    leaf: &Leaf,
    services: Router,
    goaway: oneshot::Receiver<()>,
) -> (SocketAddr, Runtime) {
    let begun = Instant::now();
    let listener = loop {
        // Who was killed closes its sockets a moment later.
        match TcpListener::bind(addr) {
            Ok(listener) => break listener,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{addr}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(serve(listener, acceptor(leaf), services, goaway));
    (addr, runtime)
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    services: Router,
    goaway: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (door, conns) = Door::new(tls);
    let accepting = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(door.clone().takes(tcp));
        }
    });
    let told = async move {
        let _ = goaway.await;
        accepting.abort();
    };
    let _ = services.serve_with_incoming_shutdown(conns, told).await;
}

/// Where connections come in.
#[derive(Clone)]
pub(crate) struct Door {
    say: mpsc::Sender<io::Result<Conn>>,
    tls: TlsAcceptor,
}

impl Door {
    /// And what has come in.
    fn new(tls: TlsAcceptor) -> (Self, ReceiverStream<io::Result<Conn>>) {
        let (say, conns) = mpsc::channel(16);
        (Self { say, tls }, conns.into())
    }

    /// Takes a connection, if its handshake succeeds.
    pub(crate) async fn takes(self, socket: impl Duplex + 'static) {
        let socket: Socket = Box::new(socket);
        if let Ok(stream) = self.tls.accept(socket).await {
            let _ = self.say.send(Ok(Conn(stream))).await;
        }
    }
}

/// tonic knows TLS streams only where it makes them.
struct Conn(TlsStream<Socket>);

impl Connected for Conn {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
