//! The TLS side of the CA server: its certificate for host names, made by the CA itself; callers
//! may show an SVID, and need not.

use std::{
    io,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use pki_types::PrivateKeyDer;
use rcgen::KeyPair;
use rustls::{
    Error, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    CaRefusal, Metrics,
    conn::{CaClient, CaConnection, Stay},
};
use crate::{
    authority::{CaError, EmbeddedCa},
    credentials::Source,
    identity::{SvidError, handshake_words, stream_words, verify_svid},
    lifecycle::{AcceptBackoff, Places, Tasks, is_of_one_connection, source, until_heard},
    sys::descriptors::of_traffic,
    tls::{Presented, Verifier, VerifyPeer, about, refused},
};

/// How many connections are open at once, and of one address: as many as a node with a thousand
/// pods opens, and more.
const CONNECTIONS: usize = 2048;
const EACH: usize = 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long its own certificate is valid, unless its authority ends before; it is made anew at
/// half of it.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How soon after another at least.
const SOONEST: Duration = Duration::from_secs(10);

/// The server's own certificate, which can be replaced.
#[derive(Debug)]
pub(super) struct ServerCertificate(RwLock<IssuedCertificate>);

/// One version of the server's certificate.
#[derive(Clone, Debug)]
struct IssuedCertificate {
    key: Arc<CertifiedKey>,
    /// The authority that signed it.
    under: Arc<str>,
    not_after: SystemTime,
}

impl ServerCertificate {
    /// Has the CA make one for `names`.
    pub(super) fn make(ca: &EmbeddedCa, names: &[String]) -> Result<Self, CaError> {
        Ok(Self(RwLock::new(certified(ca, names)?)))
    }

    /// Has the CA make another; the old one stays if it cannot.
    pub(super) fn renew(&self, ca: &EmbeddedCa, names: &[String]) -> Result<(), CaError> {
        let new = certified(ca, names)?;
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
        Ok(())
    }

    fn now(&self) -> IssuedCertificate {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until another should be made: half of its life is over, or its authority is about to
    /// be no longer trusted. Until then it stays, for clients that know that authority only. Cancel
    /// safe.
    pub(super) async fn due(&self, ca: &EmbeddedCa) {
        let own = self.now();
        let left = own.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep((left / 2).max(SOONEST)) => {}
            () = ca.leaves(&own.under) => {}
        }
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().key)
    }
}

fn certified(ca: &EmbeddedCa, names: &[String]) -> Result<IssuedCertificate, CaError> {
    let key = KeyPair::generate().map_err(|e| CaError::Sign(e.to_string()))?;
    let named = ca.certify_names(names, &key, LIFETIME)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key =
        aws_lc_rs::sign::any_supported_type(&der).map_err(|e| CaError::Sign(e.to_string()))?;
    let key = Arc::new(CertifiedKey::new(named.chain, key));
    Ok(IssuedCertificate { key, under: named.under, not_after: named.not_after })
}

/// TLS 1.3 with that certificate.
pub(super) fn acceptor(
    own: Arc<ServerCertificate>,
    ca: &Arc<EmbeddedCa>,
    metrics: &Arc<Metrics>,
    svid: bool,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = SvidIfAny { ca: Arc::clone(ca), metrics: Arc::clone(metrics) };
    let config = match svid {
        true => config.with_client_cert_verifier(Verifier::new(verifier, provider)),
        false => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is resumed shows no chain.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until it is cut; handshakes run beside each other.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    to: mpsc::Sender<io::Result<CaConnection>>,
    tasks: Tasks,
) {
    let places = Places::new(CONNECTIONS, EACH);
    let mut backoff = AcceptBackoff::new("CA server");
    loop {
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(tcp, addr)| Ok((of_traffic(tcp)?, addr)));
        let (tcp, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                backoff.failed(&error).await;
                continue;
            }
        };
        backoff.succeeded();
        let Some(place) = places.take(source(addr.ip())) else {
            tracing::debug!(
                target: "ca", peer = %addr,
                "connection refused: this address has too many"
            );
            continue;
        };
        let (acceptor, to) = (acceptor.clone(), to.clone());
        tasks.spawn(async move {
            let _ = tcp.set_nodelay(true);
            let handshake = tokio::select! {
                done = timeout(HANDSHAKE, acceptor.accept(tcp).into_fallible()) => done,
                () = place.given_up() => return,
            };
            match handshake {
                Ok(Ok(tls)) => {
                    let chain = tls.get_ref().1.peer_certificates();
                    let chain =
                        chain.map(|c| c.iter().map(|der| der.clone().into_owned()).collect());
                    let peer = CaClient { addr, chain, stay: Stay::new(place) };
                    let _ = to.send(Ok(CaConnection::new(tls, peer))).await;
                }
                Ok(Err((error, tcp))) => {
                    let error = stream_words(&error);
                    tracing::debug!(target: "ca", peer = %addr, %error, "TLS handshake failed");
                    until_heard(&tcp).await;
                }
                Err(_) => tracing::debug!(
                    target: "ca", peer = %addr,
                    "TLS handshake not finished after 5 s"
                ),
            }
        });
    }
}

/// A client certificate is asked for and may be left out; one that is shown must be an SVID of
/// this CA.
#[derive(Debug)]
struct SvidIfAny {
    ca: Arc<EmbeddedCa>,
    metrics: Arc<Metrics>,
}

impl VerifyPeer for SvidIfAny {
    fn demanded(&self) -> bool {
        false
    }

    fn verify(&self, peer: &Presented<'_>) -> Result<(), Error> {
        let bundles = self.ca.bundles().borrow().clone();
        let judged = match verify_svid(&peer.chain(), &bundles, peer.now, peer.purpose) {
            // A ban revokes what there was. Each call is judged anew, and that answer says why.
            Err(SvidError::Revoked { id, .. }) if self.ca.banned().borrow().contains(&id) => Ok(id),
            judged => judged,
        };
        judged.map(drop).map_err(|e| {
            let reason = CaRefusal::from(e.clone()).reason();
            self.metrics.refused.with_label_values(&[reason]).inc();
            let error = about(refused(e), peer.leaf);
            let why = handshake_words(&error);
            tracing::warn!(target: "ca", caller = "?", wanted = "?", reason, why, "request refused");
            error
        })
    }
}
