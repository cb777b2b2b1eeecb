//! The keys of authorities: made, read from their files, checked against their certificates.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use pki_types::CertificateDer;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{
    error::CaError,
    state::{Authority, AuthorityStatus},
    store::{self, KEY, ROOT, Store},
};
use crate::{
    identity::{JwtAuthority, PrivateKey, TrustDomain, pem},
    lifecycle::FileVersion,
};

/// Clocks of peers may be this much behind: what is signed is valid from so long ago.
pub(super) const BACKDATE: Duration = Duration::from_secs(10);
const ROOT_YEARS: i32 = 10;
/// A JWT authority is only a key in the bundle: it is changed more often than a root.
const JWT_DAYS: u64 = 90;

/// An X.509 authority that can sign.
pub(super) struct Signer {
    pub(super) id: Arc<str>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    /// What is sent behind a leaf: nothing under a root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// When the first certificate from here upwards expires.
    pub(super) not_after: SystemTime,
    pub(super) key_path: PathBuf,
    pub(super) key_version: FileVersion,
    /// What helps if the key's file is another.
    pub(super) if_changed: &'static str,
}

impl Signer {
    /// The key in memory would go on signing after an operator withdrew it: it must not.
    pub(super) fn check_key_is_still_there(&self) -> Result<(), CaError> {
        let if_gone = "is missing; restore it, or restart adit to create a new root";
        check_unchanged(&self.key_path, &self.key_version, if_gone, self.if_changed)
    }
}

fn check_unchanged(
    path: &Path,
    read: &FileVersion,
    if_gone: &'static str,
    if_changed: &'static str,
) -> Result<(), CaError> {
    let now = FileVersion::of(path).map_err(|e| CaError::io(path, &e, if_gone))?;
    if now == *read { Ok(()) } else { Err(CaError::file(path, if_changed)) }
}

/// A JWT authority that can sign.
pub(super) struct JwtKey {
    pub(super) authority: JwtAuthority,
    pub(super) key: PrivateKey,
    pub(super) not_after: SystemTime,
    key_path: PathBuf,
    key_version: FileVersion,
}

impl JwtKey {
    /// As [`Signer::check_key_is_still_there`].
    pub(super) fn check_key_is_still_there(&self) -> Result<(), CaError> {
        let if_gone = "is missing; restore it, or revoke its authority once it has a successor";
        let if_changed = "changed since adit started; restart adit to use it";
        check_unchanged(&self.key_path, &self.key_version, if_gone, if_changed)
    }
}

/// Reads a local X.509 authority.
pub(super) fn load_x509(
    store: &Store,
    authority: &Authority,
    trust_domain: &TrustDomain,
) -> Result<Signer, CaError> {
    let certificate = authority.certificate.as_deref().unwrap_or(ROOT);
    let (cert_path, key_path) = (store.path(certificate), store.path(&authority.key));
    match (cert_path.exists(), key_path.exists()) {
        (true, false) => return Err(half(&key_path, &cert_path)),
        (false, true) => return Err(half(&cert_path, &key_path)),
        _ => {}
    }
    let (key, key_version) = read_key(&key_path)?;
    let certificate = read_certificate(&cert_path)?;
    let not_after = check_ca(&certificate, &key, &authority.key, trust_domain)
        .map_err(|why| CaError::file(&cert_path, why))?;
    let issuer = Issuer::from_ca_cert_der(&certificate, key)
        .map_err(|e| CaError::file(&cert_path, format!("cannot issue: {e}")))?;
    let id = authority.id.as_str().into();
    let if_changed = "changed since adit started; restart adit to use it";
    let chain = Vec::new();
    Ok(Signer { id, issuer, certificate, chain, not_after, key_path, key_version, if_changed })
}

/// Reads a JWT authority.
pub(super) fn load_jwt(store: &Store, authority: &Authority) -> Result<JwtKey, CaError> {
    let path = store.path(&authority.key);
    let (key, key_version) = read_key(&path)?;
    let public_key = key.subject_public_key_info();
    if key_id(&key) != authority.id {
        return Err(CaError::file(
            path,
            format!("is not the key of JWT authority {}", authority.id),
        ));
    }
    Ok(JwtKey {
        authority: JwtAuthority {
            key_id: authority.id.as_str().into(),
            public_key: public_key.into(),
        },
        key: PrivateKey::from_pkcs8(key.serialize_der()),
        not_after: at(authority.not_after),
        key_path: path,
        key_version,
    })
}

/// A private key that only its owner can read, and which version of its file it is.
pub(super) fn read_key(path: &Path) -> Result<(KeyPair, FileVersion), CaError> {
    let unreadable = |e: &std::io::Error| CaError::io(path, e, "cannot be read");
    let meta = fs::metadata(path).map_err(|e| unreadable(&e))?;
    if meta.permissions().mode() & 0o077 != 0 {
        let why = "users other than its owner can read it; run `chmod 600` on it, and replace the \
                   root if they may have read it";
        return Err(CaError::file(path, why));
    }
    let before = FileVersion::of(path).map_err(|e| unreadable(&e))?;
    let text = zeroize::Zeroizing::new(store::read(path)?);
    let key = pem::private_key(text.as_bytes()).map_err(|e| CaError::file(path, e.to_string()))?;
    let key = key.ok_or_else(|| CaError::file(path, "contains no PEM private key"))?;
    let key = KeyPair::try_from(&key)
        .map_err(|_| CaError::file(path, "is a private key that cannot sign certificates"))?;
    Ok((key, before))
}

pub(super) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, CaError> {
    let all = pem::certificates(store::read(path)?.as_bytes());
    match <[_; 1]>::try_from(all.map_err(|e| CaError::file(path, e.to_string()))?) {
        Ok([certificate]) => Ok(certificate),
        Err(all) => {
            let why = format!("contains {} PEM certificates, expected one", all.len());
            Err(CaError::file(path, why))
        }
    }
}

fn half(missing: &Path, present: &Path) -> CaError {
    let why = format!(
        "is missing, but {} exists; restore it, or move the other away to create a new root (which \
         every peer must then trust)",
        present.display()
    );
    CaError::file(missing, why)
}

/// Whether a certificate is of `key` and this trust domain and can sign today; when it expires.
pub(super) fn check_ca(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    key_name: &str,
    trust_domain: &TrustDomain,
) -> Result<SystemTime, String> {
    let (_, cert) = X509Certificate::from_der(certificate)
        .map_err(|e| format!("is not an X.509 certificate: {e}"))?;
    if cert.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(format!("does not belong to the key in {key_name}"));
    }
    let own = format!("spiffe://{trust_domain}");
    if let Some(other) = domain_of(&cert).filter(|found| *found != own) {
        return Err(format!("is the root of {other}, but the mesh file says {own}"));
    }
    let (_, not_after) = validity(&cert);
    if at(not_after) <= SystemTime::now() {
        return Err("has expired; move both files away, and adit creates a new root".into());
    }
    Ok(at(not_after))
}

/// `spiffe://<trust domain>` of a CA certificate, if it says so.
pub(super) fn domain_of(cert: &X509Certificate<'_>) -> Option<String> {
    let san = cert.subject_alternative_name().ok().flatten()?;
    san.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(uri.trim_end_matches('/').to_owned()),
        _ => None,
    })
}

/// `(notBefore, notAfter)` in seconds.
pub(super) fn validity(cert: &X509Certificate<'_>) -> (u64, u64) {
    let seconds = |t: x509_parser::time::ASN1Time| u64::try_from(t.timestamp()).unwrap_or(0);
    (seconds(cert.validity().not_before), seconds(cert.validity().not_after))
}

/// Makes a root and its key; the two file names are `names`, or are taken from its ID.
pub(super) fn create_x509(
    store: &Store,
    trust_domain: &TrustDomain,
    names: Option<(&str, &str)>,
    status: AuthorityStatus,
) -> Result<Authority, CaError> {
    let key = KeyPair::generate()?;
    let id = key_id(&key);
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial());
    params.not_before = now - BACKDATE;
    params.not_after = now
        .replace_year(now.year() + ROOT_YEARS)
        .unwrap_or(now + 3650 * Duration::from_secs(86_400));
    // A name of its own for each: CRLs are told apart by their issuer's name.
    params.distinguished_name = named(&format!("adit embedded CA {trust_domain} {id}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    let own = (format!("x509-{id}.pem"), format!("x509-{id}-key.pem"));
    let (cert_name, key_name) = names.unwrap_or((&own.0, &own.1));
    // The key first: a certificate is never without its key.
    store.write_atomically(key_name, key_pem(&key).as_bytes(), 0o600)?;
    store.write_atomically(cert_name, certificate.pem().as_bytes(), 0o644)?;
    let seconds = |t: OffsetDateTime| u64::try_from(t.unix_timestamp()).unwrap_or(0);
    Ok(Authority {
        id,
        status,
        certificate: Some(cert_name.to_owned()),
        key: key_name.to_owned(),
        not_before: seconds(params.not_before),
        not_after: seconds(params.not_after),
        since: seconds(now),
    })
}

/// Takes over a root and key that no state names yet.
pub(super) fn adopt(store: &Store, trust_domain: &TrustDomain) -> Result<Authority, CaError> {
    let (certificate, key) = (ROOT.to_owned(), KEY.to_owned());
    let mut authority = Authority {
        id: String::new(),
        status: AuthorityStatus::Active,
        certificate: Some(certificate),
        key,
        not_before: 0,
        not_after: 0,
        since: seconds(SystemTime::now()),
    };
    let signer = load_x509(store, &authority, trust_domain)?;
    let (_, cert) = X509Certificate::from_der(&signer.certificate)
        .map_err(|e| CaError::file(store.path(ROOT), e.to_string()))?;
    (authority.not_before, authority.not_after) = validity(&cert);
    authority.id = key_id(signer.issuer.key());
    Ok(authority)
}

/// Makes a JWT authority.
pub(super) fn create_jwt(store: &Store, status: AuthorityStatus) -> Result<Authority, CaError> {
    let key = KeyPair::generate()?;
    let id = key_id(&key);
    let name = format!("jwt-{id}-key.pem");
    store.write_atomically(&name, key_pem(&key).as_bytes(), 0o600)?;
    let now = seconds(SystemTime::now());
    Ok(Authority {
        id,
        status,
        certificate: None,
        key: name,
        not_before: now,
        not_after: now + JWT_DAYS * 86_400,
        since: now,
    })
}

fn key_pem(key: &KeyPair) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(key.serialize_pem())
}

/// Names a key: 64 bits of its SHA-256.
pub(super) fn key_id(key: &KeyPair) -> String {
    hex(&digest(&SHA256, &key.subject_public_key_info()).as_ref()[..8])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

pub(super) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "adit");
    if common_name != "adit" {
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// 127 random bits: positive, and never the same twice.
pub(super) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}
