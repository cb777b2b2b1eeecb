//! The TLS side of the CA server: its certificate for host names, made by the CA itself; callers
//! may show an SVID, and need not.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, RwLock},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rcgen::KeyPair;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use super::{
    Metrics, Refusal,
    shares::{Share, Shares},
};
use crate::{
    ca::{CaError, EmbeddedCa, Source},
    identity::{Purpose, verify_svid},
    lifecycle::Tasks,
};

/// How many connections are open at once.
const CONNECTIONS: usize = 2048;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long its own certificate is valid, unless its authority ends before; it is made anew at
/// half of it.
const OWN: Duration = Duration::from_secs(24 * 3600);
/// How soon after another at least.
const SOONEST: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// From where.
    pub addr: SocketAddr,
    /// The chain it showed in the handshake, leaf first.
    pub(super) chain: Option<Arc<[CertificateDer<'static>]>>,
}

/// A connection that counts.
pub(super) struct Conn {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, to)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// The server's own certificate, which can be replaced.
#[derive(Debug)]
pub(super) struct OwnCert(RwLock<Own>);

/// One version of it.
#[derive(Clone, Debug)]
struct Own {
    key: Arc<CertifiedKey>,
    /// The authority that signed it.
    under: Arc<str>,
    not_after: SystemTime,
}

impl OwnCert {
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

    fn now(&self) -> Own {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until another should be made: half of its life is over, or its authority is about to
    /// be believed no more. Until then it stays, for clients that know that authority only.
    /// Cancel safe.
    pub(super) async fn due(&self, ca: &EmbeddedCa) {
        let own = self.now();
        let left = own.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep((left / 2).max(SOONEST)) => {}
            () = ca.leaves(&own.under) => {}
        }
    }
}

impl ResolvesServerCert for OwnCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().key)
    }
}

fn certified(ca: &EmbeddedCa, names: &[String]) -> Result<Own, CaError> {
    let key = KeyPair::generate().map_err(|e| CaError::Sign(e.to_string()))?;
    let named = ca.certify_names(names, &key, OWN)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key =
        aws_lc_rs::sign::any_supported_type(&der).map_err(|e| CaError::Sign(e.to_string()))?;
    let key = Arc::new(CertifiedKey::new(named.chain, key));
    Ok(Own { key, under: named.under, not_after: named.not_after })
}

/// TLS 1.3 with that certificate.
pub(super) fn acceptor(
    own: Arc<OwnCert>,
    ca: &Arc<EmbeddedCa>,
    metrics: &Arc<Metrics>,
    svid: bool,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let verifier = SvidIfAny { ca: Arc::clone(ca), metrics: Arc::clone(metrics), provider };
    let config = match svid {
        true => config.with_client_cert_verifier(Arc::new(verifier)),
        false => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until it is cut; handshakes run beside each other.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    to: mpsc::Sender<io::Result<Conn>>,
    tasks: Tasks,
) {
    let (room, shares) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Shares::default()));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (tcp, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "ca", %error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(addr.ip()) else {
            tracing::debug!(target: "ca", peer = %addr, "it has too many connections already");
            continue;
        };
        let (acceptor, to) = (acceptor.clone(), to.clone());
        tasks.spawn(async move {
            let _ = tcp.set_nodelay(true);
            match timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => {
                    let chain = tls.get_ref().1.peer_certificates();
                    let chain =
                        chain.map(|c| c.iter().map(|der| der.clone().into_owned()).collect());
                    let peer = Peer { addr, chain };
                    let conn = Conn { tls, peer, _permit: permit, _share: share };
                    let _ = to.send(Ok(conn)).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(target: "ca", peer = %addr, %error, "no TLS handshake");
                }
                Err(_) => tracing::debug!(target: "ca", peer = %addr, "no TLS handshake in 5 s"),
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
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for SvidIfAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(intermediates).map(|c| c.as_ref().into()).collect();
        let bundles = self.ca.bundles().borrow().clone();
        verify_svid(&chain, &bundles, now, Purpose::Client).map_err(|e| {
            let reason = Refusal::from(e.clone()).reason();
            self.metrics.refused.with_label_values(&[reason]).inc();
            tracing::warn!(target: "ca", caller = "?", wanted = "?", reason, why = %e, "refused");
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e))))
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
