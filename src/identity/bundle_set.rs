//! The trust bundles that a peer is checked against: one per trust domain, never merged (SPIFFE
//! Trust Domain and Bundle §4).

use std::{collections::BTreeMap, sync::Arc};

use super::{Revocations, TrustBundle, TrustDomain};

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
