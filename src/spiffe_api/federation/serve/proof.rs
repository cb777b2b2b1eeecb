//! What our servers show: a certificate from files, an X.509-SVID of this node, or nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    ServerConfig,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::config::KeyPairFiles;
use crate::{
    credentials::Svids,
    identity::{SpiffeId, X509Svid, key_files, shown},
    lifecycle::WatchedFile,
    spiffe_api::federation::FetchError,
    tls::web_provider,
};

/// The uid under which the endpoint's SVID is held: no workload's, whose uids have a slash.
const UID: &str = "bundle-endpoint";
/// How long a connection may take from its handshake to the end of the answer; so long a handshake
/// waits for an SVID.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

pub(super) enum EndpointCredentials {
    Nothing,
    Files { files: KeyPairFiles, held: Mutex<FromFiles> },
    Svid { held: Mutex<Option<(Arc<X509Svid>, Arc<ServerConfig>)>> },
}

pub(super) struct FromFiles {
    config: Arc<ServerConfig>,
    watched: WatchedFile,
    looked: Instant,
}

impl EndpointCredentials {
    /// Reads the files.
    pub(super) fn files(files: &KeyPairFiles) -> Result<Self, FetchError> {
        let paths = vec![files.certificate.clone(), files.private_key.clone()];
        let watched = WatchedFile::of_all(paths);
        let held = FromFiles { config: read(files)?, watched, looked: Instant::now() };
        Ok(Self::Files { files: files.clone(), held: Mutex::new(held) })
    }

    /// Begins to hold the SVID.
    pub(super) fn svid(svids: &Svids, id: &SpiffeId) -> Self {
        svids.watch(&UID.into(), id);
        Self::Svid { held: Mutex::default() }
    }

    /// TLS with what is to be shown now; `None` is not TLS.
    pub(super) async fn acceptor(&self, svids: &Svids) -> Result<Option<TlsAcceptor>, String> {
        match self {
            Self::Nothing => Ok(None),
            Self::Files { files, held } => {
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                held.renew(files);
                Ok(Some(Arc::clone(&held.config).into()))
            }
            Self::Svid { held } => {
                let svid = timeout(WITHIN, svids.ready(UID)).await;
                let svid = svid.map_err(|_| "no SVID yet")?.map_err(|e| e.to_string())?;
                let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((shown, config)) = &*held
                    && Arc::ptr_eq(shown, &svid)
                {
                    return Ok(Some(Arc::clone(config).into()));
                }
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.key.pkcs8()));
                let config = config(svid.chain.clone(), &key).map_err(|e| e.to_string())?;
                *held = Some((svid, Arc::clone(&config)));
                Ok(Some(config.into()))
            }
        }
    }
}

impl FromFiles {
    /// Takes new files if certificate and key belong together, else keeps what was.
    fn renew(&mut self, files: &KeyPairFiles) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if !self.watched.has_changed() {
            return;
        }
        // Written while they were read: the next look takes them.
        let Some(read) = self.watched.read(|| read(files)) else { return };
        let certificate = shown(&files.certificate);
        match read {
            Ok(config) => {
                tracing::info!(target: "federation", %certificate, "new certificate");
                self.config = config;
            }
            Err(error) => {
                tracing::warn!(
                    target: "federation", %certificate, %error,
                    "rejected, keeping the previous one"
                );
            }
        }
    }
}

fn read(files: &KeyPairFiles) -> Result<Arc<ServerConfig>, FetchError> {
    let chain = key_files::certificates(&files.certificate).map_err(FetchError::read)?;
    let key = key_files::private_key(&files.private_key).map_err(FetchError::read)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8()));
    config(chain, &key).map_err(|e| {
        let why = match e {
            rustls::Error::InconsistentKeys(_) => "does not belong to the certificate",
            _ => "cannot be used for TLS together with the certificate",
        };
        FetchError::file(&files.private_key, why)
    })
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = web_provider();
    let key = provider.key_provider.load_private_key(key.clone_key())?;
    let shown = CertifiedKey::new(chain, key);
    shown.keys_match()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
