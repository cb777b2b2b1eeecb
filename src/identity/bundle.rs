//! Trust bundles: the authorities of a trust domain. One bundle per trust domain,
//! never merged (SPIFFE Trust Domain and Bundle §4).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pki_types::{CertificateDer, CertificateRevocationListDer};

use super::{Revocations, TrustDomain};

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
        }
    }
}

/// All bundles that are trusted, kept apart by trust domain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BundleSet(
    BTreeMap<TrustDomain, TrustBundle>,
    /// Of those that have CRLs: read when they come in, not in each handshake.
    BTreeMap<TrustDomain, Arc<Revocations>>,
);

impl BundleSet {
    /// The bundle of exactly this trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(trust_domain)
    }

    /// Adds a bundle, replacing the one of the same trust domain.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.1.remove(&bundle.trust_domain);
        if !bundle.crls.is_empty() {
            let revocations = Arc::new(Revocations::of(&bundle));
            self.1.insert(bundle.trust_domain.clone(), revocations);
        }
        self.0.insert(bundle.trust_domain.clone(), bundle);
    }

    /// What the bundle of a trust domain revokes, if it has CRLs.
    #[must_use]
    pub fn revocations(&self, trust_domain: &TrustDomain) -> Option<&Revocations> {
        self.1.get(trust_domain).map(Arc::as_ref)
    }

    /// All bundles in the order of their trust domains.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }
}

impl FromIterator<TrustBundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let mut set = Self::default();
        bundles.into_iter().for_each(|bundle| set.insert(bundle));
        set
    }
}
