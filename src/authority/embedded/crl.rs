//! What the X.509 authorities have revoked: `crl.pem` with one CRL (RFC 5280 §5) per authority,
//! `crl.der` with the active one's. Derived from the state: whoever finds them behind writes them.

use std::{sync::Arc, time::SystemTime};

use pki_types::{CertificateDer, CertificateRevocationListDer};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer,
    revocation_list::CertificateRevocationList,
};

use super::{
    error::CaError,
    signer::{BACKDATE, Signer, read_certificate},
    state::CaState,
    store::{Lock, Store},
};
use crate::identity::{armour, pem};

const PEM: &str = "crl.pem";
const DER: &str = "crl.der";
/// Of which number the two are: they themselves hold CRLs and nothing else, as others read them.
const NUMBER: &str = "crl.number";
/// How long a CRL says that it is current …
const LIFETIME: Duration = Duration::days(7);
/// … and how old it may be before it is signed anew.
const RENEWED: std::time::Duration = std::time::Duration::from_secs(86_400);

/// The file whose change is looked for.
pub(super) const FILE: &str = PEM;

/// Whether the files are those of this number, and hold CRLs and nothing else.
pub(super) fn current(store: &Store, number: u64) -> bool {
    let bare = |text: String| {
        let read = pem::crls(text.as_bytes());
        read.is_ok() && (text.is_empty() || text.starts_with("-----BEGIN "))
    };
    store.text(NUMBER).is_ok_and(|text| text.trim() == number.to_string())
        && store.text(PEM).is_ok_and(bare)
}

/// Whether it is time to sign them anew, with the next number.
pub(super) fn aged(store: &Store) -> bool {
    let modified = std::fs::metadata(store.path(PEM)).and_then(|m| m.modified());
    modified.is_ok_and(|m| SystemTime::now().duration_since(m).is_ok_and(|age| age > RENEWED))
}

/// The CRLs for the bundle.
///
/// # Errors
/// If the file is there and cannot be read whole: half of it would let the revoked in.
pub(super) fn read(store: &Store) -> Result<Vec<CertificateRevocationListDer<'static>>, CaError> {
    let path = store.path(PEM);
    if !path.exists() {
        return Ok(Vec::new());
    }
    pem::crls(store.text(PEM)?.as_bytes()).map_err(|e| {
        CaError::file(path, format!("{e}; restore it, or remove it and adit creates a new one"))
    })
}

/// Writes both files: a CRL of each of `signers`, the active one first. An authority that may not
/// sign CRLs (an intermediate without cRLSign) has none.
pub(super) fn write(
    store: &Store,
    _lock: &Lock,
    state: &CaState,
    signers: &[Arc<Signer>],
) -> Result<(), CaError> {
    let mut pem = String::new();
    let mut der = Vec::new();
    for signer in signers {
        match sign(state, signer) {
            Ok(crl) => {
                pem.push_str(&crl.pem()?);
                if der.is_empty() {
                    der = crl.der().to_vec();
                }
            }
            Err(error) => {
                tracing::warn!(
                    authority = %signer.id, %error,
                    "no CRL: bans apply, but no certificate is revoked by its serial number"
                );
            }
        }
    }
    for crl in last_ones(store, state, signers)? {
        pem.push_str(&armour("X509 CRL", &crl));
    }
    store.write_atomically(DER, &der, 0o644)?;
    store.write_atomically(PEM, pem.as_bytes(), 0o644)?;
    // Last, as it says that all is there.
    store.write_atomically(NUMBER, format!("{}\n", state.crl_number).as_bytes(), 0o644)
}

/// The last CRLs of authorities that are trusted and cannot sign another, as their keys are away:
/// what they revoked stays revoked.
fn last_ones(
    store: &Store,
    state: &CaState,
    signers: &[Arc<Signer>],
) -> Result<Vec<CertificateRevocationListDer<'static>>, CaError> {
    let unable = state.x509.iter().filter(|a| signers.iter().all(|s| *s.id != *a.id));
    let unable = unable.filter_map(|a| a.certificate.as_ref());
    let unable: Vec<_> =
        unable.map(|name| read_certificate(&store.path(name))).collect::<Result<_, _>>()?;
    if unable.is_empty() {
        return Ok(Vec::new());
    }
    let by = |crl: &CertificateRevocationListDer<'_>, authority: &CertificateDer<'_>| {
        let crl = CertificateRevocationList::from_der(crl);
        let authority = X509Certificate::from_der(authority);
        let (Ok((_, crl)), Ok((_, authority))) = (crl, authority) else { return false };
        crl.issuer().as_raw() == authority.subject().as_raw()
    };
    let mut all = read(store)?;
    all.retain(|crl| unable.iter().any(|authority| by(crl, authority)));
    Ok(all)
}

fn sign(
    state: &CaState,
    signer: &Signer,
) -> Result<rcgen::CertificateRevocationList, rcgen::Error> {
    let own = state.revoked.iter().filter(|r| r.issuer == *signer.id);
    let revoked_certs = own.map(|r| RevokedCertParams {
        serial_number: unhex(&r.serial).into(),
        revocation_time: i64::try_from(r.at)
            .ok()
            .and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        reason_code: Some(RevocationReason::PrivilegeWithdrawn),
        invalidity_date: None,
    });
    let now = OffsetDateTime::now_utc();
    let params = CertificateRevocationListParams {
        this_update: now - BACKDATE,
        next_update: now + LIFETIME,
        crl_number: state.crl_number.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: key_identifier(&signer.certificate),
    };
    params.signed_by(&signer.issuer)
}

/// As the authority's certificate says, whoever made it.
fn key_identifier(certificate: &CertificateDer<'_>) -> KeyIdMethod {
    let found = X509Certificate::from_der(certificate).ok().and_then(|(_, cert)| {
        cert.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    });
    found.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |d: &[u8]| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok();
    digits.filter_map(byte).collect()
}
