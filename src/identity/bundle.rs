//! A trust bundle: the authorities of one trust domain (SPIFFE Trust Domain and Bundle §4).

use std::{sync::Arc, time::Duration};

use pki_types::{CertificateDer, CertificateRevocationListDer};

use super::{KeyUsageRule, TrustDomain};

/// The authorities of one trust domain. An empty bundle trusts nobody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// The X.509 authorities, DER.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The JWT authorities.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// What the X.509 authorities have revoked.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Grows with each change (`spiffe_sequence`).
    pub sequence: Option<u64>,
    /// How often to look for a newer one (`spiffe_refresh_hint`).
    pub refresh_hint: Option<Duration>,
    /// What its leaves must say of their key's usage.
    pub key_usage: KeyUsageRule,
}

/// A key that signs JWT-SVIDs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JwtAuthority {
    /// Its `kid`, unique in its trust domain.
    pub key_id: Arc<str>,
    /// The public key, SubjectPublicKeyInfo as DER.
    pub public_key: Arc<[u8]>,
}

impl TrustBundle {
    /// With X.509 authorities only.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, authorities: Vec<CertificateDer<'static>>) -> Self {
        Self {
            trust_domain,
            authorities,
            jwt_authorities: Vec::new(),
            crls: Vec::new(),
            sequence: None,
            refresh_hint: None,
            key_usage: KeyUsageRule::Required,
        }
    }
}
