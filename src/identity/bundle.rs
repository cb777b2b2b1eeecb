//! Trust bundles: the root certificates of a trust domain. One bundle per trust domain,
//! never merged (SPIFFE Trust Domain and Bundle §4).

use std::collections::BTreeMap;

use pki_types::CertificateDer;

use super::TrustDomain;

/// The X.509 authorities of one trust domain. An empty bundle trusts nobody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustBundle {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// The authorities, DER.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// All bundles that are trusted, kept apart by trust domain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BundleSet(BTreeMap<TrustDomain, TrustBundle>);

impl BundleSet {
    /// The bundle of exactly this trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(trust_domain)
    }

    /// Adds a bundle, replacing the one of the same trust domain.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.0.insert(bundle.trust_domain.clone(), bundle);
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
