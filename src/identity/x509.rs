//! The rules for an X.509-SVID leaf (X509-SVID §2–§4), apart from its chain ([`super::verify`]).

use std::time::{Duration, SystemTime};

use pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::Tag,
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    time::ASN1Time,
};

use super::{PublicKey, SpiffeId, SvidError, TrustDomain};

/// What a leaf says, once it keeps the rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// The ID in its only URI SAN.
    pub id: SpiffeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number, lower-case hex.
    pub serial: String,
}

/// Whether a leaf must say what its key is for. X509-SVID §4.3 demands it, and some issuers leave
/// it out: the agent of Cilium does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyUsageRule {
    /// Key usage must be there, and be right.
    #[default]
    Required,
    /// It may be missing; if it is there, it must be right.
    Optional,
}

impl KeyUsageRule {
    /// `required` or `optional`: as it is configured and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}

/// Reads a leaf and checks all rules that need neither time nor bundle.
///
/// # Errors
/// The first rule it breaks, in the order of [`SvidError`].
pub fn parse_leaf(der: &CertificateDer<'_>) -> Result<Leaf, SvidError> {
    parse_leaf_by(der, |_| KeyUsageRule::Required)
}

/// Reads a leaf and checks all rules that need neither time nor bundle; `key_usage` says for the
/// leaf's trust domain whether a key usage is required.
///
/// # Errors
/// As [`parse_leaf`].
pub fn parse_leaf_by(
    der: &CertificateDer<'_>,
    key_usage: impl FnOnce(&TrustDomain) -> KeyUsageRule,
) -> Result<Leaf, SvidError> {
    let (rest, cert) =
        X509Certificate::from_der(der).map_err(|e| SvidError::Encoding(e.to_string()))?;
    if !rest.is_empty() {
        return Err(SvidError::Encoding(format!(
            "{} after the certificate",
            crate::identity::counted(rest.len(), "byte")
        )));
    }
    let uri = only_uri(&cert)?;
    let id: SpiffeId = uri.parse().map_err(SvidError::NotSpiffeId)?;
    let faults = constraint_faults(&cert, key_usage(id.trust_domain()));
    if let Some(first) = faults.into_iter().next() {
        return Err(first);
    }
    if id.path().is_empty() {
        return Err(SvidError::NoPath(id));
    }
    PublicKey::check_signs_tls(cert.public_key().raw).map_err(SvidError::Key)?;
    Ok(Leaf::of(&cert, id))
}

impl Leaf {
    /// What a certificate says, whatever rule it keeps; `id` is who it is of.
    pub(super) fn of(cert: &X509Certificate<'_>, id: SpiffeId) -> Self {
        Self {
            id,
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
            serial: cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
        }
    }
}

/// The tag of a uniformResourceIdentifier (RFC 5280 §4.2.1.6).
pub(super) const URI_TAG: Tag = Tag(6);

/// Every URI SAN counts, in every SAN extension, duplicates too.
pub(super) fn uris<'a>(cert: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, SvidError> {
    let mut uris = Vec::new();
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                for name in &san.general_names {
                    match name {
                        GeneralName::URI(uri) => uris.push(*uri),
                        // Not ASCII: a URI SAN all the same, and never a SPIFFE ID.
                        GeneralName::Invalid(URI_TAG, _) => {
                            return Err(SvidError::Encoding("a URI SAN is not ASCII".into()));
                        }
                        _ => {}
                    }
                }
            }
            ParsedExtension::ParseError { error } => {
                return Err(SvidError::Encoding(format!("extension {}: {error}", extension.oid)));
            }
            _ => {}
        }
    }
    Ok(uris)
}

fn only_uri<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a str, SvidError> {
    match uris(cert)?.as_slice() {
        [] => Err(SvidError::NoUriSan),
        [uri] => Ok(uri),
        many => Err(SvidError::MultipleUriSans { count: many.len() }),
    }
}

/// All faults of the constraints and usages of a leaf, in the order of [`SvidError`].
pub(super) fn constraint_faults(
    cert: &X509Certificate<'_>,
    key_usage: KeyUsageRule,
) -> Vec<SvidError> {
    let broken = |e: x509_parser::error::X509Error| SvidError::Encoding(e.to_string());
    let mut faults = Vec::new();
    match cert.basic_constraints() {
        Err(e) => faults.push(broken(e)),
        Ok(Some(constraints)) if constraints.value.ca => faults.push(SvidError::CaAsLeaf),
        Ok(_) => {}
    }
    match cert.key_usage() {
        Err(e) => faults.push(broken(e)),
        Ok(None) if key_usage == KeyUsageRule::Optional => {}
        Ok(None) => faults.push(SvidError::KeyUsage("is missing")),
        Ok(Some(usage)) => {
            let rules = [
                (usage.value.key_cert_sign(), "has keyCertSign"),
                (usage.value.crl_sign(), "has cRLSign"),
                (!usage.value.digital_signature(), "lacks digitalSignature"),
            ];
            let broken = rules.into_iter().filter(|(broken, _)| *broken);
            faults.extend(broken.map(|(_, what)| SvidError::KeyUsage(what)));
        }
    }
    faults
}

/// When all certificates of a chain are valid, from and to; `None` if one of them cannot be read,
/// or if there is no such time.
#[must_use]
pub fn common_validity(chain: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    let mut both: Option<(SystemTime, SystemTime)> = None;
    for der in chain {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let (from, to) = (system_time(validity.not_before), system_time(validity.not_after));
        both = Some(both.map_or((from, to), |(begin, end)| (begin.max(from), end.min(to))));
    }
    both.filter(|(begin, end)| begin <= end)
}

/// A time of a certificate; what is before 1970 is 1970.
#[must_use]
pub fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    match u64::try_from(seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}
