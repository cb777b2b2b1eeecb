//! The two ends of a handshake.
//!
//! A configuration is built once per SVID and kept until the SVID rotates. Tickets and
//! resumption are off: a resumed session would skip the checks on the peer's SVID.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, UnbufferedClientConnection},
    server::{NoServerSessionStorage, UnbufferedServerConnection},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;

use super::{
    Session, TlsError, driver,
    key_schedule::traffic_secrets,
    provider::provider,
    tunnel_port::TunnelPort,
    verifier::{SvidVerifier, Verifier},
};
use crate::identity::{BundleSet, SpiffeId, X509Svid};

/// The server side for one pod.
#[derive(Debug, Default)]
pub struct Acceptor {
    port: TunnelPort,
    cached: Mutex<Option<Cached>>,
}

/// A configuration, and what it was built from.
#[derive(Debug)]
struct Cached {
    svid: Arc<X509Svid>,
    bundles: Arc<BundleSet>,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// That of tunnels which arrive at this port.
    #[must_use]
    pub fn at(port: TunnelPort) -> Self {
        Self { port, cached: Mutex::default() }
    }

    /// Shows `svid` to whoever connected, and demands theirs.
    ///
    /// # Errors
    /// [`TlsError`] says what was wrong with the peer; nothing was sent to it beyond an alert.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        svid: &Arc<X509Svid>,
        bundles: &Arc<BundleSet>,
        within: Duration,
    ) -> Result<Session, TlsError> {
        let tls = UnbufferedServerConnection::new(self.config(svid, bundles)?).map_err(own)?;
        let accepted = driver::run(tcp, tls, within).await;
        Session::of(accepted?, self.port)
    }

    fn config(
        &self,
        svid: &Arc<X509Svid>,
        bundles: &Arc<BundleSet>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*cached
            && Arc::ptr_eq(&known.svid, svid)
            && Arc::ptr_eq(&known.bundles, bundles)
        {
            return Ok(Arc::clone(&known.config));
        }
        let verifier = SvidVerifier { bundles: Arc::clone(bundles), expected: None };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(own)?
            .with_client_cert_verifier(Verifier::new(verifier, provider()))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key(svid)?)));
        config.alpn_protocols = vec![self.port.alpn().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        config.key_log = traffic_secrets();
        let config = Arc::new(config);
        *cached = Some(Cached {
            svid: Arc::clone(svid),
            bundles: Arc::clone(bundles),
            config: Arc::clone(&config),
        });
        Ok(config)
    }
}

/// The client side for one pod.
#[derive(Debug, Default)]
pub struct Connector {
    port: TunnelPort,
    cached: Mutex<Option<CachedClient>>,
}

/// Configurations of one SVID, by whom they expect.
#[derive(Debug)]
struct CachedClient {
    svid: Arc<X509Svid>,
    bundles: Arc<BundleSet>,
    key: Arc<CertifiedKey>,
    configs: HashMap<Vec<SpiffeId>, Arc<ClientConfig>>,
}

/// How many peers' configurations are kept per SVID; beyond that they are made anew.
const MOST_CONFIGS: usize = 4096;

impl Connector {
    /// That of tunnels which arrive at this port.
    #[must_use]
    pub fn at(port: TunnelPort) -> Self {
        Self { port, cached: Mutex::default() }
    }

    /// Shows `svid` to the server, and demands one of `expected` from it.
    ///
    /// # Errors
    /// As [`Acceptor::accept`]. In TLS 1.3 a server that refuses *our* SVID says so after the
    /// handshake: that failure shows up in the tunnel, not here.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        svid: &Arc<X509Svid>,
        bundles: &Arc<BundleSet>,
        expected: &[SpiffeId],
        within: Duration,
    ) -> Result<Session, TlsError> {
        let config = self.config(svid, bundles, expected)?;
        let peer = tcp.peer_addr().map_err(|e| TlsError::Other(e.to_string()))?;
        let name = ServerName::IpAddress(peer.ip().into());
        let tls = UnbufferedClientConnection::new(config, name).map_err(own)?;
        let connected = driver::run(tcp, tls, within).await;
        Session::of(connected?, self.port)
    }

    fn config(
        &self,
        svid: &Arc<X509Svid>,
        bundles: &Arc<BundleSet>,
        expected: &[SpiffeId],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            |c: &CachedClient| Arc::ptr_eq(&c.svid, svid) && Arc::ptr_eq(&c.bundles, bundles);
        let current = match cached.take().filter(same) {
            Some(current) => current,
            None => CachedClient {
                svid: Arc::clone(svid),
                bundles: Arc::clone(bundles),
                key: Arc::new(certified_key(svid)?),
                configs: HashMap::new(),
            },
        };
        let CachedClient { key, configs, .. } = cached.insert(current);
        if let Some(known) = configs.get(expected) {
            return Ok(Arc::clone(known));
        }
        let (bundles, expected_ids) = (Arc::clone(bundles), Some(expected.to_vec()));
        let verifier = SvidVerifier { bundles, expected: expected_ids };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(own)?
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(verifier, provider()))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
        config.alpn_protocols = vec![self.port.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        config.key_log = traffic_secrets();
        let config = Arc::new(config);
        if configs.len() >= MOST_CONFIGS {
            configs.clear();
        }
        configs.insert(expected.to_vec(), Arc::clone(&config));
        Ok(config)
    }
}

fn own(error: rustls::Error) -> TlsError {
    TlsError::OwnSvid(error.to_string())
}

fn certified_key(svid: &X509Svid) -> Result<CertifiedKey, TlsError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.pkcs8()));
    let key = provider().key_provider.load_private_key(der.clone_key()).map_err(own)?;
    Ok(CertifiedKey::new(svid.chain.clone(), key))
}
