//! Other names of the mesh's trust domain, as in Istio's `trustDomainAliases`: while a mesh changes its
//! name, callers of the old one and of the new one are the same to policies.
//!
//! Who is of an alias is proven by the authorities of the mesh's own CA, under the name that its
//! certificate has, and is called so in logs and to applications. Not here: which peers are trusted
//! ([`super::BundleSet`]).

use std::sync::Arc;

use super::{SpiffeId, TrustDomain};

/// Trust domains that are other names of the one that a pod is of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustDomainAliases(Arc<[TrustDomain]>);

impl TrustDomainAliases {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `domain` is `own`, the trust domain of the pod, or one of its aliases.
    #[must_use]
    pub fn are_one(&self, domain: &TrustDomain, own: &TrustDomain) -> bool {
        domain == own || self.0.contains(domain)
    }

    /// The other SPIFFE IDs of a peer of `own` or one of its aliases: the same path in `own` and in
    /// every alias. Empty for a peer of another trust domain.
    pub fn other_names<'a>(
        &'a self,
        id: &'a SpiffeId,
        own: &'a TrustDomain,
    ) -> impl Iterator<Item = SpiffeId> + use<'a> {
        // One that is too long for an ID is nobody's.
        self.other_principals(id, own).filter_map(|name| format!("spiffe://{name}").parse().ok())
    }

    /// The other principals of a peer of `own` or one of its aliases, as policies name them
    /// (without `spiffe://`). Also those that are too long for a SPIFFE ID: a policy that denies
    /// all of a namespace denies them.
    pub fn other_principals<'a>(
        &'a self,
        id: &'a SpiffeId,
        own: &'a TrustDomain,
    ) -> impl Iterator<Item = String> + use<'a> {
        let is_one = !self.is_empty() && self.are_one(id.trust_domain(), own);
        let others = std::iter::once(own).chain(self.iter().filter(move |alias| *alias != own));
        let others = others.filter(move |domain| is_one && *domain != id.trust_domain());
        others.map(move |domain| format!("{domain}{}", id.path()))
    }

    /// Whether two IDs are the same workload's, seen from one of `own`.
    #[must_use]
    pub fn are_same(&self, a: &SpiffeId, b: &SpiffeId, own: &TrustDomain) -> bool {
        let are_one = |id: &SpiffeId| self.are_one(id.trust_domain(), own);
        a == b || a.path() == b.path() && are_one(a) && are_one(b)
    }
}

impl FromIterator<TrustDomain> for TrustDomainAliases {
    /// Each counts once.
    fn from_iter<I: IntoIterator<Item = TrustDomain>>(domains: I) -> Self {
        let mut all: Vec<TrustDomain> = Vec::new();
        for domain in domains {
            if !all.contains(&domain) {
                all.push(domain);
            }
        }
        Self(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> TrustDomain {
        name.parse().unwrap()
    }

    fn aliases(names: &[&str]) -> TrustDomainAliases {
        names.iter().map(|name| domain(name)).collect()
    }

    #[test]
    fn who_is_of_an_alias_has_the_same_path_in_all_of_them_and_others_have_no_other_name() {
        let (both, own) = (aliases(&["old", "older", "old"]), domain("td"));
        for (aliases, id, others) in [
            (
                &both,
                "spiffe://td/ns/a/sa/b",
                &["spiffe://old/ns/a/sa/b", "spiffe://older/ns/a/sa/b"][..],
            ),
            (
                &both,
                "spiffe://old/ns/a/sa/b",
                &["spiffe://td/ns/a/sa/b", "spiffe://older/ns/a/sa/b"],
            ),
            (&both, "spiffe://other/ns/a/sa/b", &[]),
            (&both, "spiffe://old", &["spiffe://td", "spiffe://older"]),
            // Whoever lists the name itself as well says nothing by that.
            (&aliases(&["td", "old"]), "spiffe://old/x", &["spiffe://td/x"]),
            (&aliases(&["td"]), "spiffe://td/x", &[]),
            (&TrustDomainAliases::default(), "spiffe://old/x", &[]),
            (&TrustDomainAliases::default(), "spiffe://td/x", &[]),
        ] {
            let id: SpiffeId = id.parse().unwrap();
            let found: Vec<String> =
                aliases.other_names(&id, &own).map(|id| id.to_string()).collect();
            assert_eq!(found, others, "{id}");
        }
    }

    /// A pod of a trust domain that another pod's is an alias of is not made one with a third.
    #[test]
    fn aliases_are_those_of_the_pod_that_asks() {
        let old = aliases(&["old"]);
        let are_one = |a: &str, own: &str| old.are_one(&domain(a), &domain(own));
        assert!(are_one("old", "td") && are_one("old", "td2") && are_one("td", "td"));
        assert!(!are_one("td2", "td") && !are_one("td", "old"));
        let same = |a: &str, b: &str| {
            old.are_same(&a.parse().unwrap(), &b.parse().unwrap(), &domain("td"))
        };
        assert!(same("spiffe://old/a", "spiffe://td/a") && same("spiffe://x/a", "spiffe://x/a"));
        assert!(!same("spiffe://old/a", "spiffe://td/b") && !same("spiffe://x/a", "spiffe://td/a"));
    }

    #[test]
    fn a_name_that_becomes_too_long_is_no_id_and_denied_all_the_same() {
        let path = "/a".repeat(1017);
        let id: SpiffeId = format!("spiffe://td{path}").parse().unwrap();
        let (longer, own) = (aliases(&["longer"]), domain("td"));
        assert_eq!(longer.other_names(&id, &own).count(), 0);
        let others: Vec<_> = longer.other_principals(&id, &own).collect();
        assert_eq!(others, [format!("longer{path}")]);
    }
}
