//! The trust bundles that a peer is checked against: one per trust domain, never merged (SPIFFE
//! Trust Domain and Bundle §4).

use std::{collections::BTreeMap, sync::Arc};

use super::{Revocations, SvidError, TrustBundle, TrustDomain};

/// All bundles that are trusted, kept apart by trust domain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BundleSet {
    bundles: BTreeMap<TrustDomain, TrustBundle>,
    /// Of those that have CRLs: read when they come in, not in each handshake.
    revocations: BTreeMap<TrustDomain, Arc<Revocations>>,
    /// Why there are none, where something else must be known first.
    withheld: Option<Arc<str>>,
}

impl BundleSet {
    /// No bundle at all, and why: whoever is judged by it is refused with that.
    #[must_use]
    pub fn withheld(why: &str) -> Self {
        Self { withheld: Some(why.into()), ..Self::default() }
    }

    /// The bundle of exactly this trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.bundles.get(trust_domain)
    }

    /// The bundle that peers of exactly this trust domain are verified against.
    pub(super) fn of(&self, trust_domain: &TrustDomain) -> Result<&TrustBundle, SvidError> {
        let lacking = || match &self.withheld {
            Some(why) => SvidError::Withheld(Arc::clone(why)),
            None => SvidError::UnknownTrustDomain(trust_domain.clone()),
        };
        self.get(trust_domain).ok_or_else(lacking)
    }

    /// Adds a bundle, replacing the one of the same trust domain.
    pub fn insert(&mut self, bundle: TrustBundle) {
        self.revocations.remove(&bundle.trust_domain);
        if !bundle.crls.is_empty() {
            let revocations = Arc::new(Revocations::of(&bundle));
            self.revocations.insert(bundle.trust_domain.clone(), revocations);
        }
        self.bundles.insert(bundle.trust_domain.clone(), bundle);
    }

    /// What the bundle of a trust domain revokes, if it has CRLs.
    #[must_use]
    pub fn revocations(&self, trust_domain: &TrustDomain) -> Option<&Revocations> {
        self.revocations.get(trust_domain).map(Arc::as_ref)
    }

    /// All bundles in the order of their trust domains.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.bundles.values()
    }
}

impl FromIterator<TrustBundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let mut set = Self::default();
        bundles.into_iter().for_each(|bundle| set.insert(bundle));
        set
    }
}
