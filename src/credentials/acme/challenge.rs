//! TLS-ALPN-01 (RFC 8737): a handshake with ALPN `acme-tls/1`, answered by a certificate that says
//! what only the owner of the account can know.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use pki_types::PrivateKeyDer;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::sign::any_supported_type,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;

use crate::{
    sys::sockets::canonical,
    tls::{
        classic_provider,
        hello::{Beginning, ClientHelloPeek},
        secured, traffic_secrets,
    },
};

/// The protocol of the challenge (RFC 8737 §6.2).
const PROTOCOL: &[u8] = b"acme-tls/1";
/// How long a CA may take for its handshake.
const WITHIN: Duration = Duration::from_secs(10);

/// The challenge that is expected now, if one is.
pub type Pending = ArcSwapOption<Challenge>;

/// What the CA wants to see.
pub struct Challenge {
    config: Arc<ServerConfig>,
}

impl Challenge {
    /// For this name; `digest` is SHA-256 of the key authorization.
    ///
    /// # Errors
    /// If the digest has another length, or no certificate can be made.
    pub fn new(name: &str, digest: &[u8]) -> Result<Self, String> {
        if digest.len() != 32 {
            return Err("the key authorization's digest does not have 32 bytes".into());
        }
        let key = KeyPair::generate().map_err(|e| e.to_string())?;
        let mut params =
            CertificateParams::new(vec![name.to_owned()]).map_err(|e| e.to_string())?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&key).map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = any_supported_type(&key).map_err(|e| e.to_string())?;
        // As it is: rustls would not take a certificate with a critical extension of ACME's.
        let shown = CertifiedKey::new(vec![certificate.der().clone()], key);
        let config = ServerConfig::builder_with_provider(classic_provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut config = config
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_secret_extraction = true;
        config.key_log = traffic_secrets();
        Ok(Self { config: Arc::new(config) })
    }

    /// Whether this caller asks for it; nothing is taken from the socket.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn is_asked(&self, socket: &TcpStream) -> bool {
        tokio::time::timeout(WITHIN, asks(socket)).await.is_ok_and(|asks| asks.unwrap_or(false))
    }

    /// Answers a caller who asks for it.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn answer(&self, socket: TcpStream) {
        let from = socket.peer_addr().map(canonical);
        let from = from.map_or_else(|_| "?".into(), |addr| addr.to_string());
        match secured::accept(socket, Arc::clone(&self.config), WITHIN).await {
            Ok(_) => tracing::info!(target: "svid", from, "ACME challenge answered"),
            Err(error) => {
                tracing::warn!(target: "svid", from, %error, "ACME challenge not answered");
            }
        }
    }
}

/// Whether the ClientHello that comes offers `acme-tls/1`.
async fn asks(socket: &TcpStream) -> io::Result<bool> {
    let mut opening = ClientHelloPeek::of(socket, PROTOCOL);
    let known = match opening.begun(WITHIN).await? {
        Beginning::Unfinished => opening.finished().await?,
        known => known,
    };
    Ok(known == Beginning::Offered)
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    fn hello(protocols: &[&str]) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(classic_provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty());
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = "db.example.org".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// While a name is proven, all others are served as before.
    #[tokio::test]
    async fn only_who_offers_the_challenges_protocol_asks_for_it() {
        let challenge = Challenge::new("db.example.org", &[7; 32]).unwrap();
        for (what, bytes, asks) in [
            ("the challenge", hello(&["acme-tls/1"]), true),
            ("among others", hello(&["h2", "acme-tls/1"]), true),
            ("another protocol", hello(&["h2", "http/1.1"]), false),
            ("one of a longer name", hello(&["acme-tls/1.1"]), false),
            ("none", hello(&[]), false),
            ("no TLS", b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
            ("nothing", vec![], false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (far, _) = listener.accept().await.unwrap();
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            assert_eq!(challenge.is_asked(&far).await, asks, "{what}");
        }
        assert!(Challenge::new("db.example.org", &[7; 31]).is_err());
    }
}
