//! What policies name and nothing of the mesh file is: legal, as it may come later, and probably
//! misspelt.

use std::{fmt::Display, path::Path};

use crate::{
    identity::{TrustDomain, shown},
    mesh::Workload,
    policy::{Clause, FieldMatch, Match, Policy, Rule, Scope, ServiceAccountMatch, StringMatch},
    spiffe_api::federation::Relation,
};

/// What in a file of policies never matches at a service that is reached at `port`, one text each.
/// Who its callers are is not known; a file that cannot be read was told by whoever opened it.
#[must_use]
pub fn policies_that_never_match(path: &Path, port: Option<u16>) -> Vec<String> {
    let mut found = Vec::new();
    for policy in super::standalone::read_policies(path).unwrap_or_default() {
        let named = format!("{}: policy {}", shown(path), policy.key());
        if policy.rules.is_empty() {
            found.push(format!("{named} has no rules, so it matches no caller"));
        }
        if matches!(policy.scope, Scope::Selector { .. }) {
            found
                .push(format!("{named} has a selector, which is ignored here: the policy applies"));
        }
        let Some(port) = port else { continue };
        let elsewhere = |m: &Match| {
            let ports = &m.destination_ports.any;
            !ports.is_empty() && !ports.contains(&port)
        };
        let never =
            |clause: &Clause| !clause.matches.is_empty() && clause.matches.iter().all(elsewhere);
        let never = |rule: &Rule| rule.clauses.iter().any(never);
        let mut rules = policy.rule_names().zip(&policy.rules);
        if let Some((name, _)) = rules.find(|(_, rule)| never(rule)) {
            found.push(format!(
                "{}: policy {name} never matches: it names other ports than {port}, on which the \
                 service listens",
                shown(path)
            ));
        }
    }
    found
}

/// Who may be named.
pub(super) struct KnownPrincipals<'a> {
    pub(super) own: &'a TrustDomain,
    /// Their workloads are elsewhere.
    pub(super) federated: &'a [Relation],
    pub(super) workloads: &'a [Workload],
}

impl KnownPrincipals<'_> {
    /// One text for each name that stands for nobody.
    pub(super) fn unmatched(&self, policy: &Policy) -> Vec<String> {
        let mut found = Vec::new();
        for m in policy.rules.iter().flat_map(Rule::all_matches) {
            self.look(&m.principals, "principal", Self::principal, &mut found);
            self.look(&m.namespaces, "namespace", Self::namespace, &mut found);
            self.look(&m.service_accounts, "serviceAccount", Self::account, &mut found);
        }
        found
            .into_iter()
            .map(|named| {
                format!("policy {} names {named}, which matches no workload", policy.key())
            })
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
            named.matches(w.id().to_string().strip_prefix("spiffe://").unwrap_or_default())
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
        self.workloads.iter().filter(|w| w.id().trust_domain() == self.own)
    }

    fn namespace(&self, named: &StringMatch) -> bool {
        self.ours().any(|w| named.matches(w.namespace()))
    }

    fn account(&self, named: &ServiceAccountMatch) -> bool {
        self.ours().any(|w| named.matches(Some(w.id())))
    }
}
