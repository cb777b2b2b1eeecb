//! A foreign trust domain with its CA, bundle endpoints that answer what a test says, and the
//! side under test.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use adit::{
    authority::EmbeddedCa,
    credentials::Source,
    identity::{BundleSet, SpiffeId, TrustBundle, TrustDomain},
    lifecycle::Tasks,
    observe::metrics::Metrics,
    spiffe_api::federation::{BundleFrom, Federation, FederationStatus, Profile, Relation},
};
use base64::Engine;
use pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};

use crate::wait::{LIMIT, wait_until_async};

/// A CA of its own in a temporary directory.
pub(crate) struct Foreign {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: EmbeddedCa,
    pub(crate) domain: TrustDomain,
}

impl Foreign {
    pub(crate) fn new(domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain: TrustDomain = domain.parse().unwrap();
        let ca = EmbeddedCa::open(&dir.path().join("ca"), &domain, Duration::from_secs(3600));
        Self { ca: ca.unwrap(), dir, domain }
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        format!("spiffe://{}/{path}", self.domain).parse().unwrap()
    }

    /// Its bundle as a document, written here and not by adit.
    pub(crate) fn document(&self, sequence: u64) -> Value {
        document(&[self], sequence)
    }

    /// The same in a file.
    pub(crate) fn bundle_file(&self, sequence: u64) -> PathBuf {
        let path = self.dir.path().join("bundle.json");
        std::fs::write(&path, self.document(sequence).to_string()).unwrap();
        path
    }

    pub(crate) fn svid(&self, path: &str) -> Shown {
        let svid = self.ca.issue(&self.id(path)).unwrap();
        let key = PrivateKeyDer::Pkcs8(svid.key.pkcs8().to_vec().into());
        Shown { chain: svid.chain, key }
    }
}

/// A bundle with the roots of these.
pub(crate) fn document(of: &[&Foreign], sequence: u64) -> Value {
    let key = |foreign: &&Foreign| {
        let der = &foreign.ca.bundle().authorities[0];
        jwk(der)
    };
    json!({
        "keys": of.iter().map(key).collect::<Vec<_>>(),
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": 3600,
    })
}

/// An authority as a JWK, by what x509-parser says of it.
fn jwk(der: &CertificateDer<'_>) -> Value {
    use x509_parser::prelude::FromDer;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der).unwrap();
    let point = cert.public_key().subject_public_key.data.to_vec();
    assert_eq!((point[0], point.len()), (4, 65), "an uncompressed P-256 point");
    let url = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    json!({
        "kty": "EC", "crv": "P-256", "use": "x509-svid",
        "x": url(&point[1..33]), "y": url(&point[33..]),
        "x5c": [base64::engine::general_purpose::STANDARD.encode(der)],
    })
}

/// What an endpoint shows.
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// An endpoint that answers each request with the same raw bytes until told otherwise.
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    visits: Arc<AtomicUsize>,
}

fn config(shown: Shown, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(shown.chain, shown.key);
    Arc::new(config.unwrap())
}

impl Endpoint {
    pub(crate) async fn start(shown: Shown) -> Self {
        Self::start_with(shown, rustls::ALL_VERSIONS).await
    }

    pub(crate) async fn start_with(
        shown: Shown,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config(shown, versions)));
        let (answer, visits) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicUsize>::default());
        let (says, counted, tls) = (answer.clone(), visits.clone(), config.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let config = tls.lock().unwrap().clone();
                let (says, counted) = (says.clone(), counted.clone());
                tokio::spawn(async move {
                    let tls = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await;
                    let Ok(mut tls) = tls else { return };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match tls.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer = says.lock().unwrap().clone();
                    let _ = tls.write_all(&answer).await;
                    let _ = tls.shutdown().await;
                });
            }
        });
        Self { addr, answer, config, visits }
    }

    pub(crate) fn says(&self, answer: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap() = answer.into();
    }

    pub(crate) fn gives(&self, document: &Value) {
        self.says(ok(&document.to_string()));
    }

    pub(crate) fn shows(&self, shown: Shown) {
        *self.config.lock().unwrap() = config(shown, rustls::ALL_VERSIONS);
    }

    pub(crate) fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
}

/// `https_spiffe`, with `bundle` for the first visit.
pub(crate) fn by_svid(of: &TrustDomain, url: &str, id: SpiffeId, bundle: &Path) -> Relation {
    let profile = Profile::Spiffe { endpoint_id: id, bundle: Some(bundle.into()) };
    let from = BundleFrom::Endpoint { url: url.parse().unwrap(), profile };
    Relation { trust_domain: of.clone(), from }
}

/// The side under test: the trust domain `td`.
pub(crate) struct Ours {
    pub(crate) federation: Federation,
    pub(crate) bundles: watch::Receiver<Arc<BundleSet>>,
    pub(crate) source: watch::Sender<Arc<BundleSet>>,
    pub(crate) tasks: Tasks,
}

impl Ours {
    pub(crate) fn new(state_dir: Option<&Path>) -> Self {
        let own = Foreign::new("td");
        let (source, _) = watch::channel(own.ca.bundles().borrow().clone());
        let metrics = Arc::new(Metrics::new().unwrap());
        let tasks = Tasks::default();
        let federation = Federation::new(
            "td".parse().unwrap(),
            source.subscribe(),
            state_dir,
            metrics,
            tasks.child(),
        );
        let bundles = federation.bundles();
        Self { federation, bundles, source, tasks }
    }

    pub(crate) fn set(&self) -> Arc<BundleSet> {
        self.bundles.borrow().clone()
    }

    pub(crate) fn bundle(&self, of: &str) -> Option<TrustBundle> {
        self.set().get(&of.parse().unwrap()).cloned()
    }

    pub(crate) fn sequence(&self, of: &str) -> Option<u64> {
        self.bundle(of)?.sequence
    }

    pub(crate) fn status(&self, of: &str) -> FederationStatus {
        let all = self.federation.statuses();
        all.into_iter().find(|s| s.trust_domain == of).unwrap()
    }

    pub(crate) fn refresh(&self, of: &str) {
        assert!(self.federation.refresh_now(&of.parse().unwrap()));
    }

    /// Waits until it is so.
    pub(crate) async fn until(&self, what: &str, mut true_now: impl FnMut(&Self) -> bool) {
        wait_until_async(what, LIMIT, async || true_now(self)).await;
    }

    /// Waits for a failure that says this.
    pub(crate) async fn until_error(&self, of: &str, expected: &str) {
        let seen = |o: &Self| o.status(of).last_error.is_some_and(|e| e.contains(expected));
        self.until(expected, seen).await;
    }
}
