//! Certificates for trying things out: a CA whose key nobody keeps, and what it signed.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::identity::{SpiffeId, TrustDomain};

/// A certificate counts from so long before it was made: clocks differ.
const BACKDATE: Duration = Duration::from_secs(60);

/// What [`dev_certificates()`] is asked for.
#[derive(Clone, Debug)]
pub struct DevCertificateRequest<'a> {
    /// Of all SPIFFE IDs.
    pub trust_domain: &'a TrustDomain,
    /// DNS names and IP addresses by which clients call the server.
    pub server_names: &'a [String],
    /// The last segments of the clients' SPIFFE IDs.
    pub clients: &'a [String],
    /// How long the certificates are valid.
    pub lifetime: Duration,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct CertificateAndKey {
    /// `server`, or the client's name.
    pub name: String,
    /// The SPIFFE ID that it proves.
    pub id: SpiffeId,
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// A CA's certificate and what it signed.
#[derive(Clone, Debug)]
pub struct DevCertificates {
    /// The CA's certificate, PEM. Its key is gone: nobody can have it sign more.
    pub root: String,
    /// The server, then the clients.
    pub pairs: Vec<CertificateAndKey>,
}

/// Makes a CA, the certificate of a server and those of clients. Each has a SPIFFE ID, so that it
/// is an X.509-SVID too (X509-SVID §2); the server has the names that it is called by besides.
///
/// # Errors
/// A name that is not one, or that a SPIFFE ID cannot have; cryptography failed.
pub fn dev_certificates(
    wanted: &DevCertificateRequest<'_>,
) -> Result<DevCertificates, DevCertificatesError> {
    for (n, name) in wanted.clients.iter().enumerate() {
        // It is the name of a file too. A SPIFFE ID may have more segments than one.
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !name.bytes().all(legal) {
            return Err(DevCertificatesError::Name(name.clone()));
        }
        if ["ca", "server"].contains(&&**name) || wanted.clients[..n].contains(name) {
            return Err(DevCertificatesError::Taken(name.clone()));
        }
    }
    let until = SystemTime::now().checked_add(wanted.lifetime);
    let until = until.ok_or(DevCertificatesError::Lifetime)?;
    let key = KeyPair::generate()?;
    let mut root = valid("adit throw-away CA", until);
    root.subject_alt_names = vec![uri(&format!("spiffe://{}", wanted.trust_domain))?];
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = root.self_signed(&key)?.pem();
    let issuer = Issuer::new(root, key);
    let server = signed(&issuer, (wanted, "server", wanted.server_names), until);
    let clients = wanted.clients.iter().map(|name| signed(&issuer, (wanted, name, &[]), until));
    let pairs = std::iter::once(server).chain(clients).collect::<Result<_, _>>()?;
    Ok(DevCertificates { root: certificate, pairs })
}

fn signed(
    issuer: &Issuer<'_, KeyPair>,
    (wanted, name, called): (&DevCertificateRequest<'_>, &str, &[String]),
    until: SystemTime,
) -> Result<CertificateAndKey, DevCertificatesError> {
    let id = format!("spiffe://{}/{name}", wanted.trust_domain);
    let id: SpiffeId = id.parse().map_err(|_| DevCertificatesError::Name(name.to_owned()))?;
    let mut params = valid(name, until);
    params.subject_alt_names = vec![uri(id.as_str())?];
    for called in called {
        params.subject_alt_names.push(match called.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(
                called
                    .as_str()
                    .try_into()
                    .map_err(|_| DevCertificatesError::Name(called.clone()))?,
            ),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(CertificateAndKey { name: name.to_owned(), id, certificate, key: key.serialize_pem() })
}

/// A certificate's name and time.
fn valid(name: &str, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(SystemTime::now() - BACKDATE);
    params.not_after = OffsetDateTime::from(until);
    params
}

fn uri(uri: &str) -> Result<SanType, DevCertificatesError> {
    Ok(SanType::URI(uri.try_into().map_err(|_| DevCertificatesError::Name(uri.to_owned()))?))
}

/// Why there are no certificates.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DevCertificatesError {
    /// A name that a certificate cannot have.
    #[error("{0:?} cannot be a name in a certificate: a client's name has only a-z A-Z 0-9 . - _")]
    Name(String),
    /// Two certificates of one name.
    #[error("{0:?} is already the name of another certificate here; give each client its own name")]
    Taken(String),
    /// The end of the lifetime is beyond all calendars.
    #[error("certificates cannot be valid for that long")]
    Lifetime,
    /// Cryptography failed.
    #[error("making a certificate failed: {0}")]
    Sign(#[from] rcgen::Error),
}
