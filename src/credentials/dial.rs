//! TLS to a server that has a host name: istiod, an API server, whoever serves a JWKS.
//! Not here: TLS between SVIDs, where names play no part ([`crate::identity::verify_svid`]).

use std::{
    io,
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pki_types::ServerName;
use rustls::{ClientConfig, sign::CertifiedKey};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::transport::{ByteStream, Transport};
use crate::{
    identity::{chain_words, pem, shown, stream_words},
    tls::{Naming, PeerTrust, PeerVerifier, Verifier, classic_provider, web_provider},
};

/// The longest file with roots or a token that is read.
const MAX_FILE: u64 = 1 << 20;
/// How long a connection may take, handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// A server, and what proves that it is the one that is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    /// Host and port to dial.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name that its certificate must have.
    pub name: ServerName<'static>,
    /// By what way.
    pub transport: Transport,
}

impl Server {
    /// From an `https` URI; `name` replaces the host where the certificate has another.
    ///
    /// # Errors
    /// Not `https`, no host, no port that there can be, or a name that no certificate can have.
    pub fn of(uri: &http::Uri, name: Option<&str>, port: u16) -> Result<Self, String> {
        if uri.scheme_str() != Some("https") {
            return Err("must begin with https://".into());
        }
        // What is no number of a port has none for `http`, as if nothing were said.
        let after_host = uri.authority().and_then(|all| all.as_str().rsplit(']').next());
        let port = match after_host.and_then(|text| text.rsplit_once(':')) {
            None => port,
            Some((_, text)) => text
                .parse::<NonZeroU16>()
                .map_err(|_| format!("has the port {text:?}: must be 1 to 65535"))?
                .get(),
        };
        let host = uri.host().ok_or("has no host")?.trim_matches(['[', ']']).to_owned();
        let name = name.unwrap_or(&host).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|e| format!("is not a valid name for a certificate: {e}"))?;
        Ok(Self { host, port, name, transport: Transport::default() })
    }

    /// The `:authority` of requests to it.
    pub(crate) fn origin(&self) -> http::Uri {
        let name = match &self.name {
            ServerName::DnsName(name) => name.as_ref().to_owned(),
            _ => format!("[{}]", self.host),
        };
        format!("https://{name}:{}", self.port)
            .parse()
            .unwrap_or_else(|_| http::Uri::from_static("https://istiod"))
    }
}

/// Reads a small file whole.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_unnamed(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", shown(path))))
}

/// The same; an error does not name the file, whose path may be the secret that belongs in it.
pub(super) fn read_unnamed(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut all = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut all)?;
    if all.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is larger than 1 MiB"));
    }
    Ok(all)
}

/// What a server's certificate is checked against.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Roots {
    /// The certificates of a PEM file, at least one, as they are at each connection.
    File(PathBuf),
    /// Certificates in PEM, at least one.
    Pem(String),
    /// What this machine trusts.
    System,
}

impl Roots {
    /// # Errors
    /// The file, what is in it, or a machine that trusts nobody.
    fn verifier(&self) -> io::Result<PeerVerifier> {
        match self {
            Self::File(path) => verifier(&read_small(path)?, &shown(path)),
            Self::Pem(text) => verifier(text.as_bytes(), "the PEM text"),
            Self::System => {
                let mut roots = rustls_native_certs::load_native_certs().certs;
                roots.retain(|der| webpki::anchor_from_trusted_cert(der).is_ok());
                let bad = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
                match roots.is_empty() {
                    true => Err(bad("this system has no root certificates".to_owned())),
                    false => PeerVerifier::new(PeerTrust::roots(roots), true).map_err(bad),
                }
            }
        }
    }
}

/// A verifier that trusts the certificates of a PEM text, at least one.
fn verifier(text: &[u8], named: &str) -> io::Result<PeerVerifier> {
    let bad = |e: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{named}: {e}"));
    let roots = pem::certificates(text).map_err(|e| bad(e.to_string()))?;
    for der in &roots {
        let anchor = webpki::anchor_from_trusted_cert(der);
        anchor.map_err(|e| {
            bad(format!("a certificate is not a trust anchor: {}", chain_words(&e)))
        })?;
    }
    if roots.is_empty() {
        return Err(bad("contains no PEM certificate".into()));
    }
    PeerVerifier::new(PeerTrust::roots(roots), true).map_err(bad)
}

/// Connects, with the roots as they are in the file now.
///
/// # Errors
/// The roots, the connection or the handshake; the text names neither host nor port.
pub(crate) async fn dial(
    server: &Server,
    trusted: &Roots,
    alpn: &[u8],
    own: Option<Arc<CertifiedKey>>,
) -> io::Result<TlsStream<ByteStream>> {
    let config = ClientConfig::builder_with_provider(web_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(
            Naming(trusted.verifier()?),
            classic_provider(),
        ));
    let mut config = match own {
        Some(own) => {
            config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let connect = async {
        let socket = server.transport.connect(&server.host, server.port).await?;
        let tls = TlsConnector::from(Arc::new(config)).connect(server.name.clone(), socket).await;
        tls.map_err(|e| io::Error::new(e.kind(), stream_words(&e)))
    };
    timeout(CONNECT, connect).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 5 s"))
    })
}
