//! What a service shows to its peers and what it checks theirs against, from wherever it comes;
//! replaced as a whole, and only by something that fits together.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use rustls::{RootCertStore, sign::CertifiedKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::PeerCert;
use crate::{
    ca::{
        Credential, Source as _,
        workload_api::{Endpoint, WorkloadApi},
    },
    identity::{
        BundleSet, PrivateKey, TrustBundle, X509Svid,
        key_files::{at, bytes, certificates, keystore_chain, private_key},
        parse_leaf,
    },
    tls::{PeerTrust, Pin, classic_provider},
    tunnel::Own,
};

/// Where a service's certificate, key and roots come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MaterialConfig {
    /// Files.
    Files {
        /// Certificate and key; none shows nothing to peers (a client only).
        credential: Option<Credential>,
        /// The password of a keystore, where it is not in a file.
        password: Option<Password>,
        /// The roots, PEM; none are the system's.
        roots: Option<PathBuf>,
        /// CRLs, PEM or DER.
        crls: Vec<PathBuf>,
        /// Keys that are trusted instead of roots.
        pins: Vec<Pin>,
    },
    /// The SPIFFE Workload API: the default SVID and all bundles.
    WorkloadApi {
        /// Its socket.
        endpoint: Endpoint,
        /// How long the first SVID is waited for; `None` for ever.
        within: Option<Duration>,
        /// Whether our SVID is shown.
        shown: bool,
    },
}

/// A password that is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(pub zeroize::Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(redacted)")
    }
}

/// One state of it.
#[derive(Debug)]
pub struct Material {
    /// What is shown to peers.
    pub key: Option<Arc<CertifiedKey>>,
    /// What theirs is checked against.
    pub trust: PeerTrust,
    /// What our own certificate says.
    pub own: Option<PeerCert>,
    /// The same as an X.509-SVID, with the bundles of whom it trusts, if it is one.
    pub svid: Option<Own>,
    /// When it ends.
    pub not_after: Option<SystemTime>,
    /// Where it is from, for people.
    pub source: String,
}

/// Keeps the material of one service up to date.
pub struct Keeper {
    config: MaterialConfig,
    now: watch::Sender<Arc<Material>>,
    /// Why the last attempt failed, if it did.
    error: Mutex<Option<String>>,
    /// When what is in use was obtained.
    obtained: Mutex<SystemTime>,
    workload_api: Option<WorkloadApi>,
    reading: Arc<Semaphore>,
    /// The files before they were first read.
    first: Vec<Stamp>,
}

impl Keeper {
    /// Obtains the first material.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn open(config: MaterialConfig) -> Result<Arc<Self>, String> {
        // Before they are read: what changes from here on is seen.
        let first = stamps(&config);
        let (material, workload_api) = match &config {
            MaterialConfig::Files { .. } => (read(&config, None).await?, None),
            MaterialConfig::WorkloadApi { endpoint, within, shown } => {
                let api = WorkloadApi::follow(endpoint);
                let from = endpoint.to_string();
                let first = first_svid(&api, *shown, &from);
                let first = match within {
                    None => first.await,
                    Some(limit) => tokio::time::timeout(*limit, first).await.map_err(|_| {
                        let why =
                            api.default_svid().err().map_or(String::new(), |e| format!(": {e}"));
                        format!("no SVID from {endpoint} within {limit:?}{why}")
                    })?,
                };
                (first, Some(api))
            }
        };
        let now = watch::Sender::new(Arc::new(material));
        let reading = Arc::new(Semaphore::new(1));
        let (error, obtained) = (Mutex::default(), Mutex::new(SystemTime::now()));
        Ok(Arc::new(Self { config, now, error, obtained, workload_api, reading, first }))
    }

    /// What is in use.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        Arc::clone(&self.now.borrow())
    }

    /// Told of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Material>> {
        self.now.subscribe()
    }

    /// Why the last attempt to renew it failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When what is in use was obtained.
    #[must_use]
    pub fn obtained(&self) -> SystemTime {
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, material: Material) {
        self.now.send_replace(Arc::new(material));
        *self.obtained.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    /// Reads the files again; what is wrong changes nothing. Nothing to do for a source that
    /// tells of news by itself.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub async fn reload(&self) -> Result<(), String> {
        if self.workload_api.is_some() {
            return Ok(());
        }
        // One at a time: a file that cannot be read to its end holds one thread, not one each time.
        let read = async {
            let turn =
                Arc::clone(&self.reading).acquire_owned().await.map_err(|e| e.to_string())?;
            read(&self.config, Some(turn)).await
        };
        let read = match tokio::time::timeout(READ_WITHIN, read).await {
            Ok(read) => read,
            Err(_) => Err(unread(&self.config)),
        };
        let read = read.and_then(|new| {
            // Those of the system, taken away under us.
            match self.current().trust.is_empty() || !new.trust.is_empty() {
                true => Ok(new),
                false => Err("the system has no trusted roots any more".into()),
            }
        });
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(material) => {
                *error = None;
                self.take(material);
                Ok(())
            }
            Err(why) => {
                *error = Some(why.clone());
                Err(why)
            }
        }
    }

    /// Follows the source: changed files, a new SVID. Never returns.
    pub async fn follow(&self) {
        match (&self.config, &self.workload_api) {
            (MaterialConfig::WorkloadApi { endpoint, shown, .. }, Some(api)) => {
                let mut seen = 0;
                loop {
                    api.news(&mut seen).await;
                    let made = api.default_svid().map_err(|e| e.to_string());
                    let made = made.and_then(|svid| {
                        of_svid(
                            svid,
                            &api.bundles().borrow().clone(),
                            *shown,
                            &endpoint.to_string(),
                        )
                    });
                    let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                    *error = match made {
                        Ok(material) => {
                            self.take(material);
                            None
                        }
                        Err(why) => Some(why),
                    };
                }
            }
            (config, _) => {
                let (mut taken, mut before) = (self.first.clone(), None);
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    let now = stamps(config);
                    // Twice the same: whoever writes has finished.
                    if now != taken && before.as_ref() == Some(&now) {
                        match self.reload().await {
                            Ok(()) => {
                                tracing::info!(target: "svid", "files have changed and were read")
                            }
                            Err(error) => {
                                tracing::warn!(target: "svid", error, "files have changed and are not taken; what was read before stays")
                            }
                        }
                        taken.clone_from(&now);
                    }
                    before = Some(now);
                }
            }
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long files may take to be read anew: one may have become a pipe.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What to say when they took longer.
fn unread(config: &MaterialConfig) -> String {
    let no_file = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    match paths(config).iter().find(no_file) {
        Some(path) => at(path, "is a pipe that nobody writes to"),
        None => format!("files could not be read within {READ_WITHIN:?}"),
    }
}

type Stamp = Option<(u64, u64, SystemTime)>;

fn stamps(config: &MaterialConfig) -> Vec<Stamp> {
    paths(config).iter().map(stamp).collect()
}

fn stamp(path: &PathBuf) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.modified().ok()?))
}

fn paths(config: &MaterialConfig) -> Vec<PathBuf> {
    let MaterialConfig::Files { credential, roots, crls, .. } = config else { return Vec::new() };
    let mut paths: Vec<PathBuf> = roots.iter().chain(crls).cloned().collect();
    match credential {
        Some(Credential::Pem { certificate, private_key }) => {
            paths.extend([certificate.clone(), private_key.clone()]);
        }
        Some(Credential::Keystore { keystore, password }) => {
            paths.push(keystore.clone());
            paths.extend(password.clone());
        }
        None => {}
    }
    paths
}

async fn first_svid(api: &WorkloadApi, shown: bool, from: &str) -> Material {
    let mut seen = 0;
    loop {
        api.news(&mut seen).await;
        if let Ok(svid) = api.default_svid()
            && let Ok(material) = of_svid(svid, &api.bundles().borrow().clone(), shown, from)
        {
            return material;
        }
    }
}

fn of_svid(
    svid: X509Svid,
    bundles: &Arc<BundleSet>,
    shown: bool,
    from: &str,
) -> Result<Material, String> {
    let own = PeerCert::of(&svid.chain);
    let key = shown.then(|| certified(svid.chain.clone(), &svid.key)).transpose()?;
    let not_after = Some(svid.not_after);
    Ok(Material {
        key,
        trust: PeerTrust::Spiffe(Arc::clone(bundles)),
        own,
        svid: Some(Own { svid: Arc::new(svid), bundles: Arc::clone(bundles) }),
        not_after,
        source: format!("Workload API {from}"),
    })
}

/// Files are read beside the control thread: a keystore's key derivation may take a while.
async fn read(
    config: &MaterialConfig,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Material, String> {
    let config = config.clone();
    let read = tokio::task::spawn_blocking(move || {
        let read = read_now(&config);
        drop(turn);
        read
    });
    read.await.map_err(|e| format!("reading files: {e}"))?
}

fn read_now(config: &MaterialConfig) -> Result<Material, String> {
    let MaterialConfig::Files { credential, password, roots, crls, pins } = config else {
        return Err("not a matter of files".into());
    };
    let (mut key, mut own, mut not_after, mut source) = (None, None, None, "none".to_owned());
    let mut svid = None;
    let crls: Vec<_> = crls.iter().map(|path| crls_in(path)).collect::<Result<Vec<_>, _>>()?;
    let crls: Vec<_> = crls.into_iter().flatten().collect();
    if let Some(credential) = credential {
        let (path, (chain, private)) = match credential {
            Credential::Pem { certificate, private_key: file } => {
                (certificate, (certificates(certificate)?, private_key(file)?))
            }
            Credential::Keystore { keystore, password: file } => {
                let file = file.as_ref().map(|file| password_in(file)).transpose()?;
                let password = password.as_ref().or(file.as_ref());
                (keystore, keystore_or_pem(keystore, password.map_or("", |p| &p.0))?)
            }
        };
        source = format!("file {}", path.display());
        own = PeerCert::of(&chain);
        not_after = end_of(&chain);
        if not_after.is_some_and(|end| end <= SystemTime::now()) {
            return Err(at(path, "the certificate has expired"));
        }
        key = Some(certified(chain.clone(), &private).map_err(|why| at(path, why))?);
        if let Some(roots) = roots {
            svid = svid_of(chain, private, certificates(roots)?, crls.clone());
        }
    }
    let trust = if pins.is_empty() {
        PeerTrust::Roots { roots: Arc::new(root_store(roots.as_ref())?), crls: crls.into() }
    } else {
        PeerTrust::Pinned(pins.as_slice().into())
    };
    Ok(Material { key, trust, own, svid, not_after, source })
}

/// The certificate as an X.509-SVID whose trust domain has these roots, if it is one.
fn svid_of(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    roots: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
) -> Option<Own> {
    let leaf = parse_leaf(chain.first()?).ok()?;
    let mut bundle = TrustBundle::new(leaf.id.trust_domain().clone(), roots);
    bundle.crls = crls;
    let bundles: BundleSet = [bundle].into_iter().collect();
    let (not_before, not_after, serial) = (leaf.not_before, leaf.not_after, leaf.serial);
    let svid = X509Svid { id: leaf.id, chain, key, not_before, not_after, serial };
    Some(Own { svid: Arc::new(svid), bundles: Arc::new(bundles) })
}

/// The first line of a file.
fn password_in(file: &Path) -> Result<Password, String> {
    let bytes = bytes(file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| at(file, "is no text"))?;
    Ok(Password(zeroize::Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())))
}

/// A keystore is PKCS#12, or certificates and key in one PEM file.
fn keystore_or_pem(
    path: &Path,
    password: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKey), String> {
    let start = bytes(path)?;
    match start.get(..4) {
        Some([0xCE, 0xCE, 0xCE, 0xCE] | [0xFE, 0xED, 0xFE, 0xED]) => Err(at(
            path,
            "is a Java keystore (JKS or JCEKS); `keytool -importkeystore -deststoretype pkcs12` \
             converts it",
        )),
        _ if start.windows(11).take(65_536).any(|w| w == b"-----BEGIN ") => {
            Ok((certificates(path)?, private_key(path)?))
        }
        _ => keystore_chain(path, password),
    }
}

/// The key as rustls uses it, if it is that of the leaf.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
) -> Result<Arc<CertifiedKey>, String> {
    let der = PrivateKeyDer::Pkcs8(key.pkcs8().into());
    let certified = CertifiedKey::from_der(chain, der.clone_key(), &classic_provider());
    certified.map(Arc::new).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            "the private key is not that of the certificate".to_owned()
        }
        other => other.to_string(),
    })
}

fn end_of(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end))
}

pub(super) fn root_store(file: Option<&PathBuf>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate).map_err(|e| at(path, e))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            let (added, _) = store.add_parsable_certificates(system.certs);
            // Whether that is enough depends on whether anybody is checked.
            if added == 0 {
                tracing::debug!(target: "svid", "the system has no trusted roots");
            }
        }
    }
    Ok(store)
}

fn crls_in(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = bytes(path)?;
    let all = if bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        all.map_err(|e| at(path, e))?
    } else {
        vec![CertificateRevocationListDer::from(bytes.to_vec())]
    };
    if all.is_empty() {
        return Err(at(path, "holds no CRL in PEM"));
    }
    for crl in &all {
        webpki::BorrowedCertRevocationList::from_der(crl)
            .map_err(|e| at(path, format!("holds no CRL that can be used: {e}")))?;
    }
    Ok(all)
}
