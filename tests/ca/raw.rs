//! A client of the CA API that sends what it likes, with or without a client certificate.

use std::{sync::Arc, time::Duration};

use adit::{
    identity::X509Svid,
    rpc::{
        bans::{Banned, WatchRequest, bans_client::BansClient},
        istio_ca::{
            IstioCertificateRequest, IstioCertificateResponse,
            istio_certificate_service_client::IstioCertificateServiceClient,
        },
    },
};
use hyper_util::rt::TokioIo;
use pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::server::CaServer;

/// A CSR in PEM that names `uris`.
pub(crate) fn csr(uris: &[&str]) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|u| SanType::URI((*u).try_into().expect("ASCII"))).collect();
    params.serialize_request(&key).expect("a CSR").pem().expect("PEM")
}

/// What `ImpersonatedIdentity` is.
pub(crate) fn for_identity(id: &str) -> Option<prost_types::Struct> {
    let value = prost_types::value::Kind::StringValue(id.into());
    let value = prost_types::Value { kind: Some(value) };
    Some(prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() })
}

/// Shakes hands twice as one client: how each handshake went, and how many tickets came with it.
pub(crate) async fn twice(server: &CaServer) -> [(Option<rustls::HandshakeKind>, u32); 2] {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = Arc::new(config(server, None));
    let mut seen = [(None, 0); 2];
    for seen in &mut seen {
        let tcp = tokio::net::TcpStream::connect(server.addr).await.expect("connected");
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let mut tls = tls.connect("ca.test".try_into().expect("a name"), tcp).await.expect("TLS");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tls.write_all(preface).await.expect("sent");
        tls.read_exact(&mut [0; 9]).await.expect("its SETTINGS, behind any ticket");
        let session = tls.get_ref().1;
        *seen = (session.handshake_kind(), session.tls13_tickets_received());
    }
    seen
}

/// A connection that has shaken hands, and says no more.
pub(crate) async fn silent(
    server: &CaServer,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let tcp = tokio::net::TcpStream::connect(server.addr).await.expect("connected");
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config(server, None)));
    tls.connect("ca.test".try_into().expect("a name"), tcp).await.expect("TLS")
}

fn config(server: &CaServer, svid: Option<&X509Svid>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(server.file("ca/root.pem")).expect("a root");
    roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match svid {
        None => config.with_no_client_auth(),
        Some(svid) => {
            let key = PrivateKeyDer::Pkcs8(svid.key.pkcs8().to_vec().into());
            config.with_client_auth_cert(svid.chain.clone(), key).expect("a usable SVID")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A connection, once it is used.
fn channel(server: &CaServer, svid: Option<&X509Svid>) -> Channel {
    let (config, addr) = (Arc::new(config(server, svid)), server.addr);
    Endpoint::from_static("https://ca.test").connect_with_connector_lazy(tower::service_fn(
        move |_| {
            let tls = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            async move {
                let tcp = tokio::net::TcpStream::connect(addr).await?;
                tls.connect("ca.test".try_into().expect("a name"), tcp).await.map(TokioIo::new)
            }
        },
    ))
}

fn showing<T>(token: Option<&str>, request: T) -> Request<T> {
    let mut request = Request::new(request);
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

/// Begins to watch who is banned, and hears the first of it.
pub(crate) async fn watch(
    server: &CaServer,
    token: Option<&str>,
    svid: Option<&X509Svid>,
) -> Result<tonic::Streaming<Banned>, Status> {
    let mut client = BansClient::new(channel(server, svid));
    let mut told = client.watch(showing(token, WatchRequest {})).await?.into_inner();
    told.message().await?;
    Ok(told)
}

/// One call.
pub(crate) async fn call(
    server: &CaServer,
    token: Option<&str>,
    svid: Option<&X509Svid>,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    let mut client = IstioCertificateServiceClient::new(channel(server, svid));
    let answer = client.create_certificate(showing(token, request));
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an end");
    answer.map(tonic::Response::into_inner)
}
