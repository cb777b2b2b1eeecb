//! Our own bundle for other trust domains, and our JWT keys for OpenID Connect: two read-only
//! HTTP/1.1 servers. Nobody is asked who they are (SPIFFE Federation §5.2); everything that is
//! served is public.

mod oidc;
mod proof;

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

pub use oidc::{InvalidIssuer, Issuer};
use proof::Shown;

use super::error::FetchError;
use crate::{
    ca::Svids,
    identity::{SpiffeId, TrustDomain},
    lifecycle::Tasks,
};

/// What is served.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServeConfig {
    /// Our bundle.
    pub bundle: Option<BundleEndpoint>,
    /// Our JWT keys.
    pub oidc: Option<Oidc>,
}

/// A bundle endpoint (SPIFFE Federation §5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleEndpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The path of the bundle.
    pub path: String,
    /// What it shows.
    pub proof: Proof,
}

/// What a bundle endpoint shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Proof {
    /// `https_web`
    Web(KeyPairFiles),
    /// `https_spiffe`: the X.509-SVID of this ID, which the source of SVIDs must give.
    Spiffe(SpiffeId),
}

/// A certificate chain and its key, PEM; read again when they change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyPairFiles {
    /// Leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub private_key: PathBuf,
}

/// An `OpenID` provider's public half: discovery document and keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Oidc {
    /// What tokens say in `iss`.
    pub issuer: Issuer,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it shows; without it, it speaks HTTP, for an ingress that speaks HTTPS.
    pub certificate: Option<KeyPairFiles>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("{what} cannot listen on {listen}: {source}")]
    Listen {
        /// Which server.
        what: &'static str,
        /// Where.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error("{what}: {source}")]
    Certificate {
        /// Which server.
        what: &'static str,
        /// Which file, and why.
        source: FetchError,
    },
}

/// How long a handshake, and then the rest, may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(2);
/// How many are served at a time; others wait.
const MOST_AT_ONCE: usize = 256;

/// What there is to be read.
struct Site {
    svids: Arc<Svids>,
    own: TrustDomain,
    pages: Pages,
}

enum Pages {
    Bundle { path: String },
    Oidc { issuer: Issuer },
}

/// Binds what the configuration names and serves it in `tasks`.
///
/// # Errors
/// An address that cannot be bound, a certificate that cannot be used.
pub async fn serve(
    config: &ServeConfig,
    own: &TrustDomain,
    svids: &Arc<Svids>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let site = |pages| Arc::new(Site { svids: Arc::clone(svids), own: own.clone(), pages });
    if let Some(endpoint) = &config.bundle {
        let what = "the bundle endpoint";
        let shown = match &endpoint.proof {
            Proof::Web(files) => Shown::files(files),
            Proof::Spiffe(id) => Ok(Shown::svid(svids, id)),
        };
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(Pages::Bundle { path: endpoint.path.clone() });
        start(what, endpoint.listen, shown, site, tasks).await?;
    }
    if let Some(oidc) = &config.oidc {
        let what = "the OIDC endpoint";
        let shown = oidc.certificate.as_ref().map_or(Ok(Shown::Nothing), Shown::files);
        let shown = shown.map_err(|source| ServeError::Certificate { what, source })?;
        let site = site(Pages::Oidc { issuer: oidc.issuer.clone() });
        start(what, oidc.listen, shown, site, tasks).await?;
    }
    Ok(())
}

async fn start(
    what: &'static str,
    listen: SocketAddr,
    shown: Shown,
    site: Arc<Site>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| ServeError::Listen { what, listen, source })?;
    tracing::info!(target: "federation", %listen, "{what} is served");
    let conns = tasks.child();
    tasks.spawn(accept(listener, Arc::new(shown), site, conns));
    Ok(())
}

async fn accept(listener: TcpListener, shown: Arc<Shown>, site: Arc<Site>, conns: Tasks) {
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((tcp, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (shown, site) = (Arc::clone(&shown), Arc::clone(&site));
        conns.spawn(async move {
            if let Err(error) = one(tcp, &shown, &site).await {
                tracing::debug!(target: "federation", %peer, error, "a request failed");
            }
            drop(place);
        });
    }
}

/// One connection, one request.
async fn one(tcp: TcpStream, shown: &Shown, site: &Site) -> Result<(), String> {
    let late = |_| format!("not finished after {WITHIN:?}");
    let Some(tls) = shown.acceptor(&site.svids).await? else {
        return timeout(WITHIN, answer(tcp, site)).await.map_err(late)?;
    };
    let stream = timeout(WITHIN, tls.accept(tcp)).await.map_err(late)?;
    let stream = stream.map_err(|e| e.to_string())?;
    timeout(WITHIN, answer(stream, site)).await.map_err(late)?
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, site: &Site) -> Result<(), String> {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(site.page(&request)) });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(8192).keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), service).await;
    served.map_err(|e| e.to_string())
}

type Answer = Response<Full<Bytes>>;

impl Site {
    fn page(&self, request: &Request<Incoming>) -> Answer {
        let Some(document) = self.document(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND, "no such document\n");
        };
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        }
        match document {
            Some(document) => {
                let mut answer = Response::new(Full::from(format!("{document:#}\n")));
                let json = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(header::CONTENT_TYPE, json);
                answer
            }
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "there is no bundle yet\n"),
        }
    }

    /// `None` for a path that means nothing, `Some(None)` while there is nothing to give.
    fn document(&self, path: &str) -> Option<Option<serde_json::Value>> {
        let bundles = self.svids.bundles();
        let bundle = bundles.get(&self.own);
        match &self.pages {
            Pages::Bundle { path: own } if path == own => Some(bundle.map(|bundle| {
                let mut bundle = bundle.clone();
                bundle.refresh_hint.get_or_insert(HINT);
                bundle.to_document()
            })),
            Pages::Bundle { .. } => None,
            Pages::Oidc { issuer } => issuer.document(path, bundle),
        }
    }
}

/// How often others are to look for a new bundle when the source does not say.
const HINT: Duration = Duration::from_secs(300);

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
