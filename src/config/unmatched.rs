//! What policies name and nothing of the mesh file is: legal, as it may come later, and probably
//! misspelt.

use std::fmt::Display;

use crate::{
    ca::federation::Relation,
    identity::TrustDomain,
    mesh::Workload,
    policy::{Condition, FieldMatch, Policy, ServiceAccountMatch, StringMatch},
};

/// Who may be named.
pub(super) struct Known<'a> {
    pub(super) own: &'a TrustDomain,
    /// Their workloads are elsewhere.
    pub(super) federated: &'a [Relation],
    pub(super) workloads: &'a [Workload],
}

impl Known<'_> {
    /// One text for each name that stands for nobody.
    pub(super) fn unmatched(&self, policy: &Policy) -> Vec<String> {
        let mut found = Vec::new();
        for rule in &policy.rules {
            for source in &rule.from {
                self.look(&source.principals, "principal", Self::principal, &mut found);
                self.look(&source.namespaces, "namespace", Self::namespace, &mut found);
                self.look(&source.service_accounts, "serviceAccount", Self::account, &mut found);
            }
            for when in &rule.when {
                match when {
                    Condition::SourcePrincipal(field) => {
                        self.look(field, "principal", Self::principal, &mut found);
                    }
                    Condition::SourceNamespace(field) => {
                        self.look(field, "namespace", Self::namespace, &mut found);
                    }
                    Condition::SourceServiceAccount(field) => {
                        self.look(field, "serviceAccount", Self::account, &mut found);
                    }
                    _ => {}
                }
            }
        }
        found
            .into_iter()
            .map(|named| format!("policy {} names {named}, which no workload is", policy.key()))
            .collect()
    }

    fn look<T: Display>(
        &self,
        field: &FieldMatch<T>,
        kind: &str,
        is: fn(&Self, &T) -> bool,
        found: &mut Vec<String>,
    ) {
        let named = field.any.iter().chain(&field.none).filter(|one| !is(self, one));
        found.extend(named.map(|one| format!("{kind} {one}")));
    }

    fn principal(&self, named: &StringMatch) -> bool {
        let id = |w: &Workload| {
            named.matches(w.id.to_string().strip_prefix("spiffe://").unwrap_or_default())
        };
        self.workloads.iter().any(id) || self.is_elsewhere(named)
    }

    /// Whether it may be somebody of a federated trust domain.
    fn is_elsewhere(&self, named: &StringMatch) -> bool {
        self.federated.iter().any(|relation| {
            let domain = format!("{}/", relation.trust_domain);
            match named {
                StringMatch::Exact(text) => text.starts_with(&domain),
                StringMatch::Prefix(text) => text.starts_with(&domain) || domain.starts_with(text),
                StringMatch::Suffix(_) | StringMatch::Presence => true,
            }
        })
    }

    /// Namespaces and accounts are those of our own trust domain.
    fn ours(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().filter(|w| w.id.trust_domain() == self.own)
    }

    fn namespace(&self, named: &StringMatch) -> bool {
        self.ours().any(|w| named.matches(&w.namespace))
    }

    fn account(&self, named: &ServiceAccountMatch) -> bool {
        self.ours().any(|w| named.matches(Some(&w.id)))
    }
}
