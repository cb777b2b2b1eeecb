//! An attacker's tools: certificates signed with the mesh's own root key, and an HBONE peer
//! that shows whichever it likes. Independent of adit's own client and server.

use std::{net::TcpStream, sync::Arc, time::Duration};

use http::Request;
use pki_types::{CertificateDer, PrivateKeyDer};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair,
    KeyUsagePurpose as Ku, SanType,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs::sign::any_supported_type,
    sign::{CertifiedKey, SingleCertAndKey},
};
use time::OffsetDateTime;

use crate::{corpus::Forged, lab::Lab};

/// The root of the lab's CA folder, as an issuer.
pub(crate) fn issuer(lab: &Lab) -> Issuer<'static, KeyPair> {
    let root_key = std::fs::read_to_string(lab.file("ca/root-key.pem")).expect("root key");
    let root = std::fs::read_to_string(lab.file("ca/root.pem")).expect("root");
    let root_key = KeyPair::from_pem(&root_key).expect("root key");
    Issuer::from_ca_cert_pem(&root, root_key).expect("issuer")
}

/// A certificate for `uris` from the root in the lab's CA folder.
pub(crate) fn forge(
    lab: &Lab,
    uris: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Forged {
    forge_by(&issuer(lab), uris, change)
}

pub(crate) fn forge_by(
    issuer: &Issuer<'static, KeyPair>,
    uris: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Forged {
    let key = KeyPair::generate().expect("key");
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(600);
    params.subject_alt_names =
        uris.iter().map(|u| SanType::URI((*u).try_into().expect("ASCII"))).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Ku::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    change(&mut params);
    let cert = params.signed_by(&key, issuer).expect("signed");
    let der = key.serialize_der();
    Forged { chain: vec![cert.der().clone()], key: PrivateKeyDer::Pkcs8(der.into()) }
}

#[derive(Debug)]
pub(crate) struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &pki_types::ServerName<'_>,
        _: &[u8],
        _: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Shown whatever the other end asks for, and whether the key goes with it or not.
pub(crate) fn shows(forged: Forged) -> Arc<SingleCertAndKey> {
    let key = any_supported_type(&forged.key).expect("a usable key");
    Arc::new(CertifiedKey::new(forged.chain, key).into())
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    within(Duration::from_secs(10), work)
}

fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let done = tokio::time::timeout(limit, work).await;
        done.unwrap_or_else(|_| panic!("not within {limit:?}"))
    })
}

pub(crate) async fn handshake(
    socket: TcpStream,
    forged: Forged,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
    handshake_for(b"h2", socket, forged).await
}

/// The same of who offers this protocol.
pub(crate) async fn handshake_for(
    alpn: &[u8],
    socket: TcpStream,
    forged: Forged,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody))
        .with_client_cert_resolver(shows(forged));
    config.alpn_protocols = vec![alpn.to_vec()];
    socket.set_nonblocking(true).expect("non-blocking");
    let tcp = tokio::net::TcpStream::from_std(socket).expect("a socket");
    let name = "adit.test".try_into().expect("a name");
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    tls.map_err(|e| e.to_string())
}

/// Sends one request through a tunnel made with a forged certificate, over a socket that the
/// capture rules leave alone; the status, or what went wrong.
pub(crate) fn request(
    socket: TcpStream,
    forged: Forged,
    request: Request<()>,
) -> Result<u16, String> {
    request_for(b"h2", socket, forged, request)
}

/// The same in a tunnel of who offers this protocol.
pub(crate) fn request_for(
    alpn: &[u8],
    socket: TcpStream,
    forged: Forged,
    request: Request<()>,
) -> Result<u16, String> {
    block_on(async {
        let tls = handshake_for(alpn, socket, forged).await?;
        let h2 = h2::client::handshake(tls).await;
        let (send, connection) = h2.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let mut send = send.ready().await.map_err(|e| e.to_string())?;
        let (answer, _stream) = send.send_request(request, false).map_err(|e| e.to_string())?;
        let status = answer.await.map_err(|e| e.to_string())?.status().as_u16();
        driver.abort();
        Ok(status)
    })
}

/// A connection from the spy's namespace that the capture rules leave alone, as an attacker
/// with its own sockets would make it.
pub(crate) fn uncaptured(lab: &Lab, to: &str) -> TcpStream {
    uncaptured_of("spy", lab, to)
}

/// The same from another namespace.
pub(crate) fn uncaptured_of(pod: &str, lab: &Lab, to: &str) -> TcpStream {
    let to: std::net::SocketAddr = to.parse().expect("an address");
    let dial = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_mark(0x539)?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok::<TcpStream, std::io::Error>(socket.into())
    };
    lab.netns(pod).run(dial).expect("namespace entered").expect("connected")
}

/// The serial number of the certificate that a server shows.
pub(crate) fn server_serial(socket: TcpStream, forged: Forged) -> String {
    block_on(async {
        let tls = handshake(socket, forged).await.expect("a handshake");
        let chain = tls.get_ref().1.peer_certificates().expect("a certificate");
        adit::identity::parse_leaf(&chain[0]).expect("an SVID").serial
    })
}

/// Two requests through one tunnel, and what happens `between` them: their statuses, 0 where the
/// tunnel takes no more.
pub(crate) fn two_requests(
    socket: TcpStream,
    forged: Forged,
    authority: &str,
    between: impl Future<Output = ()>,
) -> [u16; 2] {
    block_on(async {
        let tls = handshake(socket, forged).await.expect("a handshake");
        let (mut send, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        let driver = tokio::spawn(connection);
        let (mut statuses, mut between) = ([0; 2], Some(between));
        for (n, status) in statuses.iter_mut().enumerate() {
            if let Some(between) = between.take_if(|_| n == 1) {
                between.await;
            }
            let Ok(ready) = send.ready().await else { break };
            send = ready;
            let connect = Request::builder().method(http::Method::CONNECT).uri(authority);
            let connect = connect.body(()).expect("a request");
            let (answer, _) = send.send_request(connect, true).expect("sent");
            *status = answer.await.expect("an answer").status().as_u16();
        }
        driver.abort();
        statuses
    })
}

/// Keeps a tunnel open, with a stream to `authority` or without: when the other end closed it.
/// Returns once it is up.
pub(crate) fn hold(
    socket: TcpStream,
    forged: Forged,
    authority: Option<&str>,
) -> std::thread::JoinHandle<std::time::Instant> {
    let authority = authority.map(ToOwned::to_owned);
    let (up, is_up) = std::sync::mpsc::channel();
    let held = std::thread::spawn(move || {
        // As long as a scenario lasts, which need not wait for its end.
        within(Duration::from_secs(600), async {
            let tls = handshake(socket, forged).await.expect("a handshake");
            let (send, mut connection) = h2::client::handshake(tls).await.expect("HTTP/2");
            let mut ping = connection.ping_pong().expect("the only one");
            let driver = tokio::spawn(connection);
            ping.ping(h2::Ping::opaque()).await.expect("an answer");
            let mut send = send.ready().await.expect("room for a stream");
            let stream = match authority {
                Some(authority) => {
                    let connect = Request::builder().method(http::Method::CONNECT).uri(authority);
                    let connect = connect.body(()).expect("a request");
                    let (answer, stream) = send.send_request(connect, false).expect("sent");
                    let answer = answer.await.expect("an answer");
                    assert_eq!(answer.status(), 200);
                    Some((stream, answer))
                }
                None => None,
            };
            up.send(()).expect("somebody waits");
            let _ = driver.await;
            drop((send, stream));
            std::time::Instant::now()
        })
    });
    is_up.recv_timeout(Duration::from_secs(5)).expect("up");
    held
}

/// Answers one TLS client with a forged certificate; whoever connects learns who we claim
/// to be and decides.
pub(crate) fn answer_one(listener: std::net::TcpListener, forged: Forged) {
    std::thread::spawn(move || {
        let Ok((socket, _)) = listener.accept() else { return };
        block_on(async {
            let mut config = rustls::ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_no_client_auth()
                .with_cert_resolver(shows(forged));
            config.alpn_protocols = vec![b"h2".to_vec()];
            socket.set_nonblocking(true).expect("non-blocking");
            let tcp = tokio::net::TcpStream::from_std(socket).expect("a socket");
            let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
        });
    });
}
