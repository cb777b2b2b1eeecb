//! A SPIFFE provider of the tests' own: a Workload API that gives adit its SVID, and a Broker API
//! over mutual TLS, both of tonic and rustls.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use adit::{
    identity::{BundleSet, LocalIdentity, X509Svid},
    rpc::{
        broker as api,
        broker::api_server::{Api, ApiServer},
        workload as wire,
    },
};
use prost::Message;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::Connected},
};

use super::{
    agent::{self, Agent, Said},
    svids::ROOT,
    wait::{LIMIT, wait_until_async},
};

type Given = Result<wire::X509svidResponse, Status>;
type Stream<M> = ReceiverStream<Result<M, Status>>;

/// What happened to streams of SVIDs: which pod's, and the serial number that adit showed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    Opened(String, String),
    Closed(String, String),
}

/// The provider. What it says is changed by tests while it runs.
#[derive(Clone)]
pub(crate) struct Provider {
    dir: Arc<tempfile::TempDir>,
    /// By `namespace/name` or `pid N`.
    pods: watch::Sender<HashMap<String, Given>>,
    own: watch::Sender<Given>,
    /// Where the Broker API is served beside its Unix socket.
    pub(crate) tcp: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
    references: Arc<Mutex<Vec<api::KubernetesObjectReference>>>,
}

impl Provider {
    /// Serves as the SPIFFE ID of this name, and gives adit the one of `adit`.
    pub(crate) fn start(name: &str) -> Self {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = TcpListener::from_std(tcp).unwrap();
        let own = watch::Sender::new(Ok(answer(&[&ROOT.own("adit")])));
        let provider = Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            pods: watch::Sender::default(),
            own,
            tcp: tcp.local_addr().unwrap(),
            events: Arc::default(),
            references: Arc::default(),
        };
        agent::serve(&provider.socket("agent.sock"), provider.clone());

        let listener = UnixListener::bind(provider.socket("broker.sock")).unwrap();
        let tls = Arc::new(ROOT.rustls_server(name, TLS13_AES_128_GCM_SHA256));
        let (send, incoming) = mpsc::channel::<io::Result<Io>>(16);
        tokio::spawn(async move {
            loop {
                let socket = tokio::select! {
                    Ok((socket, _)) = listener.accept() => Either::Left(socket),
                    Ok((socket, _)) = tcp.accept() => Either::Right(socket),
                    else => break,
                };
                let (tls, send) = (TlsAcceptor::from(Arc::clone(&tls)), send.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = tls.accept(socket).await {
                        let _ = send.send(Ok(Io(tls))).await;
                    }
                });
            }
        });
        let broker = ApiServer::new(provider.clone());
        let incoming = ReceiverStream::new(incoming);
        // As few streams in a connection as a server may allow.
        let mut server = Server::builder().max_concurrent_streams(100);
        tokio::spawn(server.add_service(broker).serve_with_incoming(incoming));
        provider
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is said of a pod from now on.
    pub(crate) fn say(&self, pod: &str, given: Result<wire::X509svidResponse, Status>) {
        self.pods.send_modify(|pods| {
            pods.insert(pod.to_owned(), given);
        });
    }

    /// What the Workload API gives adit for itself from now on.
    pub(crate) fn say_own(&self, given: Result<wire::X509svidResponse, Status>) {
        let _ = self.own.send_replace(given);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// How many streams of SVIDs there are.
    pub(crate) fn open(&self) -> usize {
        let events = self.events();
        let opened = events.iter().filter(|e| matches!(e, Event::Opened(..))).count();
        2 * opened - events.len()
    }

    pub(crate) fn references(&self) -> Vec<api::KubernetesObjectReference> {
        self.references.lock().unwrap().clone()
    }

    /// Waits until it is as expected.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        wait_until_async(what, LIMIT, async || so(self)).await;
    }

    fn pod<M>(
        &self,
        request: &Request<M>,
        reference: Option<&api::WorkloadReference>,
    ) -> Result<String, Status> {
        let header: Vec<_> = request.metadata().get_all("broker.spiffe.io").iter().collect();
        if header != ["true"] {
            return Err(Status::invalid_argument("no broker.spiffe.io: true"));
        }
        let any = reference.and_then(|r| r.reference.as_ref()).expect("a reference");
        match any.type_url.strip_prefix("type.googleapis.com/spiffe.broker.").unwrap() {
            "WorkloadPIDReference" => {
                let pid = api::WorkloadPidReference::decode(&*any.value).unwrap().pid;
                Ok(format!("pid {pid}"))
            }
            "KubernetesObjectReference" => {
                let object = api::KubernetesObjectReference::decode(&*any.value).unwrap();
                self.references.lock().unwrap().push(object.clone());
                let key = object.key.unwrap();
                Ok(format!("{}/{}", key.namespace, key.name))
            }
            other => panic!("{other}"),
        }
    }
}

/// What the Workload API and the Broker API say alike.
pub(crate) fn answer(owns: &[&LocalIdentity]) -> wire::X509svidResponse {
    let svid = |own: &&LocalIdentity| one(&own.svid, &own.bundles);
    wire::X509svidResponse { svids: owns.iter().map(svid).collect(), ..Default::default() }
}

fn one(svid: &X509Svid, bundles: &BundleSet) -> wire::X509svid {
    let bundle = bundles.get(svid.id.trust_domain()).unwrap();
    wire::X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: svid.chain.concat_der(),
        x509_svid_key: svid.key.pkcs8().to_vec(),
        bundle: bundle.authorities.concat_der(),
        hint: String::new(),
    }
}

trait ConcatDer {
    fn concat_der(&self) -> Vec<u8>;
}

impl ConcatDer for Vec<pki_types::CertificateDer<'static>> {
    fn concat_der(&self) -> Vec<u8> {
        self.iter().flat_map(|der| der.to_vec()).collect()
    }
}

#[tonic::async_trait]
impl Api for Provider {
    type SubscribeToX509SVIDStream = Stream<wire::X509svidResponse>;
    type SubscribeToX509BundlesStream = Stream<wire::X509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Stream<wire::JwtBundlesResponse>;

    async fn subscribe_to_x509svid(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDStream>, Status> {
        let pod = self.pod(&request, request.get_ref().reference.as_ref())?;
        let shown = request.extensions().get::<Shown>().unwrap().0.clone();
        let (send, stream) = mpsc::channel(4);
        let (mut pods, events) = (self.pods.subscribe(), Arc::clone(&self.events));
        tokio::spawn(async move {
            let tell = |event| events.lock().unwrap().push(event);
            tell(Event::Opened(pod.clone(), shown.clone()));
            let mut last = None;
            loop {
                let given = pods.borrow_and_update().get(&pod).cloned();
                let given = given.unwrap_or_else(|| Err(Status::not_found("no such pod")));
                let new = last.as_ref() != given.as_ref().ok();
                let ends = given.is_err();
                last = given.as_ref().ok().cloned();
                let unheard = (new || ends) && send.send(given).await.is_err();
                if unheard || ends {
                    break;
                }
                tokio::select! {
                    () = send.closed() => break,
                    changed = pods.changed() => if changed.is_err() { break },
                }
            }
            tell(Event::Closed(pod, shown));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        _: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        Err(Status::unimplemented("answers with SVIDs have the bundles"))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<api::FetchJwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        let pod = self.pod(&request, request.get_ref().reference.as_ref())?;
        let given = self.pods.borrow().get(&pod).cloned();
        let given = given.unwrap_or_else(|| Err(Status::not_found("no such pod")))?;
        let svids = given.svids.into_iter().map(|svid| wire::Jwtsvid {
            spiffe_id: svid.spiffe_id,
            svid: format!("token.for.{}", request.get_ref().audience.join("+")),
            hint: String::new(),
        });
        Ok(Response::new(wire::JwtsvidResponse { svids: svids.collect() }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        self.pod(&request, request.get_ref().reference.as_ref())?;
        // The public key of RFC 7515 appendix A.3.
        let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"one","use":"jwt-svid",
            "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
        let bundles = [("spiffe://td".to_owned(), jwks.into())].into();
        let (send, stream) = mpsc::channel(1);
        send.send(Ok(wire::JwtBundlesResponse { bundles })).await.unwrap();
        tokio::spawn(async move { send.closed().await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Agent for Provider {
    fn x509_svids(&self) -> Result<Said<wire::X509svidResponse>, Status> {
        let (send, stream) = mpsc::channel(4);
        let mut own = self.own.subscribe();
        tokio::spawn(async move {
            loop {
                let given = own.borrow_and_update().clone();
                let ends = given.is_err();
                if send.send(given).await.is_err() || ends || own.changed().await.is_err() {
                    break;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// The serial number of the certificate that the client showed.
#[derive(Clone)]
struct Shown(String);

struct Io(TlsStream<Either<UnixStream, TcpStream>>);

impl Connected for Io {
    type ConnectInfo = Shown;

    fn connect_info(&self) -> Shown {
        let chain = self.0.get_ref().1.peer_certificates().expect("mutual TLS");
        Shown(adit::identity::parse_leaf(&chain[0]).unwrap().serial)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
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
