//! The embedded CA as a server for others (`adit ca serve`): the Istio CA API over TLS.
//!
//! [`authorize`] decides who may ask for what; callers prove who they are by a Kubernetes
//! service-account token ([`token`]), a join token ([`join`]) or an SVID. Pods come from outside
//! ([`Pods`]): watching the Kubernetes API is not done here.

pub mod authorize;
mod bans;
mod conn;
mod csr;
mod https;
mod join;
mod keys;
mod live;
mod rate;
mod refusal;
mod review;
mod service;
mod tls;
mod token;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

pub use conn::CaClient;
pub use csr::CsrError;
pub use https::Endpoint;
pub use join::{JoinError, JoinTokens};
pub use keys::KeysFrom;
pub use refusal::CaRefusal;
pub use review::{PATH as TOKEN_REVIEWS, Review};
pub use token::{ExpectedClaims, TokenError};

use super::EmbeddedCa;
use crate::{
    lifecycle::{Tasks, next_change, watch_clock},
    net::cannot_listen,
    rpc::{
        bans::bans_server::BansServer,
        istio_ca::istio_certificate_service_server::IstioCertificateServiceServer,
    },
};
use authorize::{IssuingRules, Pod};

/// The longest request: a CSR, an ID, and what frames them.
const LONGEST_REQUEST: usize = 64 << 10;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(15);
/// Callers that stay are sent away after this, and come back.
const CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// How callers prove who they are; what is absent is not taken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attestors {
    /// By service-account token.
    pub kubernetes: Option<Kubernetes>,
    /// By join token.
    pub join: Option<JoinTokens>,
    /// By a valid SVID of this CA.
    pub svid: bool,
}

/// The pods of the cluster, whole each time.
pub type Pods = Arc<ArcSwap<Vec<Pod>>>;

/// Which service-account tokens are taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kubernetes {
    /// What they must say.
    pub expected: ExpectedClaims,
    /// Who signs them; `None` where the API server is asked.
    pub keys: Option<KeysFrom>,
    /// The API server to ask.
    pub review: Option<Review>,
}

/// What the server is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The names in its certificate: DNS names and IP addresses.
    pub names: Vec<String>,
    /// The longest lifetime of an SVID.
    pub svid_lifetime: Duration,
    /// Who may ask for what.
    pub rules: IssuingRules,
    /// How callers prove who they are.
    pub attestors: Attestors,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    issued: IntCounter,
    refused: IntCounterVec,
}

impl Metrics {
    /// In a registry of their own.
    ///
    /// # Errors
    /// If a name is taken, which is a defect of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let issued = IntCounter::new("adit_ca_issued_total", "Certificates issued")?;
        let refused = Opts::new("adit_ca_refused_total", "Calls refused, by reason");
        let refused = IntCounterVec::new(refused, &["reason"])?;
        registry.register(Box::new(issued.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { registry, issued, refused })
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// A server that runs, and takes another configuration.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it was started with.
    start: ServerConfig,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Running {
    /// Takes what a server that runs can take of `wanted`; see [`live::taken`].
    pub fn take(&self, wanted: &ServerConfig) {
        let now = Arc::clone(&self.current.borrow());
        let taken = live::taken(&self.start, &now, wanted);
        self.current.send_if_modified(|current| {
            let differs = **current != taken;
            *current = Arc::new(taken);
            differs
        });
    }
}

/// Serves in `tasks` until they are cut. `pods` are those of the cluster at any time.
///
/// # Errors
/// An address that cannot be bound, or a certificate that the CA cannot make.
pub async fn serve(
    ca: &Arc<EmbeddedCa>,
    config: ServerConfig,
    pods: &Pods,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> io::Result<Running> {
    let own = Arc::new(tls::ServerCertificate::make(ca, &config.names).map_err(io::Error::other)?);
    let acceptor = tls::acceptor(Arc::clone(&own), ca, metrics, config.attestors.svid)
        .map_err(io::Error::other)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| io::Error::new(e.kind(), cannot_listen(config.listen, "`listen`", &e)))?;
    let addr = listener.local_addr()?;
    let (to, conns) = mpsc::channel(64);
    tasks.spawn(tls::accept(listener, acceptor, to, tasks.clone()));
    let clock = watch_clock(tasks);
    let (current, configs) = watch::channel(Arc::new(config.clone()));
    tasks.spawn(renew(own, Arc::clone(ca), configs.clone(), clock));
    let (ca, metrics, pods) = (Arc::clone(ca), Arc::clone(metrics), Arc::clone(pods));
    let service = Arc::new(service::CaService::new(ca, configs, pods, metrics));
    let bans = BansServer::new(bans::BansService::new(Arc::clone(&service)));
    let service =
        IstioCertificateServiceServer::from_arc(service).max_decoding_message_size(LONGEST_REQUEST);
    tasks.spawn(async move {
        let served = tonic::transport::Server::builder()
            .timeout(CALL)
            .max_concurrent_streams(128)
            .http2_max_header_list_size(32 << 10)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_connection_age(CONNECTION_AGE)
            .add_service(service)
            .add_service(bans.max_decoding_message_size(LONGEST_REQUEST))
            .serve_with_incoming(ReceiverStream::new(conns))
            .await;
        if let Err(error) = served {
            tracing::error!(target: "ca", %error, "the CA server ended");
        }
    });
    Ok(Running { addr, start: config, current })
}

/// Its own certificate is made anew when it is due, when it is to have other names, and when the
/// clock was set: by the new time it may not be valid.
async fn renew(
    own: Arc<tls::ServerCertificate>,
    ca: Arc<EmbeddedCa>,
    mut configs: watch::Receiver<Arc<ServerConfig>>,
    mut clock: watch::Receiver<()>,
) {
    let mut names = configs.borrow().names.clone();
    loop {
        tokio::select! {
            () = own.due(&ca) => {}
            () = next_change(&mut clock) => {}
            () = next_change(&mut configs) => {
                let wanted = configs.borrow_and_update().names.clone();
                if wanted == names {
                    continue;
                }
                names = wanted;
            }
        }
        while let Err(error) = own.renew(&ca, &names) {
            tracing::warn!(
                target: "ca", %error,
                "the CA server's certificate was not renewed; trying again in 10 s"
            );
            tokio::time::sleep(Duration::from_secs(10)).await;
            names.clone_from(&configs.borrow().names);
        }
    }
}
