//! A CA inside adit, for a mesh without a control plane: one P-256 root in a directory,
//! created once; SVIDs are issued from it in memory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use pki_types::{CertificateDer, pem::PemObject};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{Source, SourceError, Urgency, Wanted};
use crate::identity::{
    BundleSet, PrivateKey, SpiffeId, TrustBundle, TrustDomain, X509Svid, parse_leaf,
};

/// Why the CA cannot open or issue.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CaError {
    /// A file or directory; says which, and what to do.
    #[error("CA file {path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what helps.
        why: String,
    },
    /// An identity that this CA does not issue.
    #[error("the embedded CA of {trust_domain} does not issue {id}: {why}")]
    NotOurs {
        /// The CA's trust domain.
        trust_domain: TrustDomain,
        /// What was asked for.
        id: SpiffeId,
        /// Why not.
        why: &'static str,
    },
    /// Cryptography failed.
    #[error("the embedded CA could not sign: {0}")]
    Sign(String),
}

mod names;

const ROOT: &str = "root.pem";
const KEY: &str = "root-key.pem";
const ROOT_YEARS: i32 = 10;
/// Clocks of peers may be this much behind.
const BACKDATE: Duration = Duration::from_secs(10);

/// The CA.
pub struct EmbeddedCa {
    trust_domain: TrustDomain,
    lifetime: Duration,
    key_path: PathBuf,
    key_stamp: (u64, i64, u64),
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: SystemTime,
    bundles: watch::Sender<Arc<BundleSet>>,
}

impl std::fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddedCa({})", self.trust_domain)
    }
}

impl EmbeddedCa {
    /// Opens the CA in `dir`, making its root at the first call. Processes that open the
    /// same directory at once get the same root.
    ///
    /// # Errors
    /// [`CaError::File`] names the file: only one of the two there, a key that others can
    /// read, a key of another certificate, another trust domain, an expired root.
    pub fn open(
        dir: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        fs::create_dir_all(dir).map_err(|e| file(dir, &e, "cannot be created"))?;
        let lock_path = dir.join(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path);
        let lock = lock.map_err(|e| file(&lock_path, &e, "cannot be opened"))?;
        lock.lock().map_err(|e| file(&lock_path, &e, "cannot be locked"))?;
        let (root_path, key_path) = (dir.join(ROOT), dir.join(KEY));
        match (root_path.exists(), key_path.exists()) {
            (true, true) => {}
            (false, false) => create_root(dir, trust_domain)?,
            (true, false) => return Err(half(&key_path, &root_path)),
            (false, true) => return Err(half(&root_path, &key_path)),
        }
        Self::load(root_path, key_path, trust_domain, lifetime)
    }

    fn load(
        root_path: PathBuf,
        key_path: PathBuf,
        trust_domain: &TrustDomain,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        let meta = fs::metadata(&key_path).map_err(|e| file(&key_path, &e, "cannot be read"))?;
        if meta.permissions().mode() & 0o077 != 0 {
            let why = "others than its owner can read it; run `chmod 600` on it, and replace the \
                       root if they may have";
            return Err(CaError::File { path: key_path, why: why.into() });
        }
        let bad = |path: &Path, why: String| CaError::File { path: path.into(), why };
        let key =
            fs::read_to_string(&key_path).map_err(|e| file(&key_path, &e, "cannot be read"))?;
        let key = KeyPair::from_pem(&key)
            .map_err(|e| bad(&key_path, format!("is no private key in PEM: {e}")))?;
        let root = CertificateDer::from_pem_file(&root_path)
            .map_err(|e| bad(&root_path, format!("is no certificate in PEM: {e}")))?;
        let root_not_after =
            check_root(&root, &key, trust_domain).map_err(|e| bad(&root_path, e))?;
        let issuer = Issuer::from_ca_cert_der(&root, key)
            .map_err(|e| bad(&root_path, format!("cannot issue: {e}")))?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![root.clone()]);
        let (bundles, _) = watch::channel(Arc::new([bundle].into_iter().collect()));
        Ok(Self {
            bundles,
            trust_domain: trust_domain.clone(),
            lifetime,
            key_stamp: stamp(&meta),
            key_path,
            issuer,
            root,
            root_not_after,
        })
    }

    /// The trust bundle: the root.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root.clone()])
    }

    /// Issues an X.509-SVID with a new P-256 key, valid from 10 s ago for the configured
    /// lifetime, at most until the root expires.
    ///
    /// # Errors
    /// As [`EmbeddedCa::sign`].
    pub fn issue(&self, id: &SpiffeId) -> Result<X509Svid, CaError> {
        let key = KeyPair::generate().map_err(|e| CaError::Sign(e.to_string()))?;
        let chain = self.sign(id, &key, self.lifetime)?;
        let leaf = parse_leaf(&chain[0]).map_err(|e| CaError::Sign(e.to_string()))?;
        Ok(X509Svid {
            id: leaf.id,
            chain,
            key: PrivateKey::from_pkcs8(key.serialize_der()),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
        })
    }

    /// Certifies that `id` holds `key`: the chain of an X.509-SVID, leaf first, valid from 10 s
    /// ago for `lifetime`, at most until the authority expires.
    ///
    /// # Errors
    /// An ID of another trust domain or without a path; a root key that is no longer the
    /// one on disk (an operator took it away).
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let not_ours =
            |why| CaError::NotOurs { trust_domain: self.trust_domain.clone(), id: id.clone(), why };
        if *id.trust_domain() != self.trust_domain {
            return Err(not_ours("it is of another trust domain"));
        }
        if id.path().is_empty() {
            return Err(not_ours("it has no path and so names the trust domain itself"));
        }
        self.check_key_is_still_there()?;
        let sign = |e: rcgen::Error| CaError::Sign(e.to_string());
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.serial_number = Some(random_serial());
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from((now + lifetime).min(self.root_not_after));
        params.distinguished_name = named("adit");
        params.subject_alt_names = vec![uri(id.as_str()).map_err(sign)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(key, &self.issuer).map_err(sign)?;
        Ok(vec![cert.der().clone()])
    }

    /// The key in memory would go on signing after an operator withdrew it: it must not.
    fn check_key_is_still_there(&self) -> Result<(), CaError> {
        let path = &self.key_path;
        let meta = fs::metadata(path)
            .map_err(|e| file(path, &e, "is gone; put it back, or restart adit for a new root"))?;
        if stamp(&meta) != self.key_stamp {
            let why = "changed since adit started; restart adit to use it".to_owned();
            return Err(CaError::File { path: path.clone(), why });
        }
        Ok(())
    }
}

impl Source for EmbeddedCa {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>> {
        self.bundles.subscribe()
    }

    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>> {
        ready(self.issue(&wanted.id).map_err(SourceError::from)).boxed()
    }
}

fn stamp(meta: &fs::Metadata) -> (u64, i64, u64) {
    (meta.ino(), meta.mtime_nsec() ^ meta.mtime(), meta.len())
}

fn file(path: &Path, error: &io::Error, what: &str) -> CaError {
    CaError::File { path: path.into(), why: format!("{what}: {error}") }
}

fn half(missing: &Path, present: &Path) -> CaError {
    let why = format!(
        "is missing while {} is there; put it back, or move the other away for a new root \
         (which every peer must then trust)",
        present.display()
    );
    CaError::File { path: missing.into(), why }
}

fn create_root(dir: &Path, trust_domain: &TrustDomain) -> Result<(), CaError> {
    let sign = |e: rcgen::Error| CaError::Sign(e.to_string());
    let key = KeyPair::generate().map_err(sign)?;
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATE;
    params.not_after = now
        .replace_year(now.year() + ROOT_YEARS)
        .unwrap_or(now + 3650 * Duration::from_secs(86_400));
    params.distinguished_name = named(&format!("adit embedded CA {trust_domain}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}")).map_err(sign)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key).map_err(sign)?;
    // The key first: a crash in between leaves a half that the next start names.
    write_atomically(&dir.join(KEY), key.serialize_pem().as_bytes(), 0o600)?;
    write_atomically(&dir.join(ROOT), cert.pem().as_bytes(), 0o644)?;
    tracing::info!(dir = %dir.display(), %trust_domain, "made a new CA root");
    Ok(())
}

fn write_atomically(path: &Path, text: &[u8], mode: u32) -> Result<(), CaError> {
    let temp = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temp);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temp)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|e| file(path, &e, "cannot be written"))
}

fn check_root(
    root: &CertificateDer<'_>,
    key: &KeyPair,
    trust_domain: &TrustDomain,
) -> Result<SystemTime, String> {
    use x509_parser::{extensions::GeneralName, prelude::FromDer};
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(root)
        .map_err(|e| format!("is no X.509 certificate: {e}"))?;
    if cert.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(format!("does not belong to the key in {KEY}"));
    }
    let san = cert.subject_alternative_name().ok().flatten();
    let names = san.map(|s| s.value.general_names.as_slice()).unwrap_or_default();
    let own = format!("spiffe://{trust_domain}");
    let uris = names.iter().filter_map(|n| match n {
        GeneralName::URI(uri) => Some(uri.trim_end_matches('/')),
        _ => None,
    });
    if let Some(other) = uris.clone().next().filter(|_| !uris.clone().any(|u| u == own)) {
        return Err(format!("is the root of {other}, but the mesh file says {own}"));
    }
    let seconds = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    if not_after <= SystemTime::now() {
        return Err("has expired; move both files away for a new root".into());
    }
    Ok(not_after)
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "adit");
    if common_name != "adit" {
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// 127 random bits: positive, and never the same twice.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests;
