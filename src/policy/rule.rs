//! An `AuthorizationPolicy` as adit holds it, in the shape that istiod sends (istio-ambient facts
//! §7.2, §10): any rule, in it every clause, in that any match, in that every field. A file's
//! `from`, its `to` and each line of its `when` are a clause, so whoever reads a policy need not
//! know where it comes from. What it says of a flow: [`super::evaluate`].

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{FieldMatch, Place, RuleName, ServiceAccountMatch, StringMatch};

/// What a match means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Permit; whatever no `ALLOW` matches is then denied.
    Allow,
    /// Forbid, before any `ALLOW` is asked.
    Deny,
}

/// Which workloads a policy is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Every workload of the mesh (a policy of the root namespace without selector).
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// Those with these labels: in the policy's namespace, or, from the root namespace, in
    /// any (`everywhere`).
    Selector {
        /// All of these.
        labels: BTreeMap<String, String>,
        /// From the root namespace.
        everywhere: bool,
    },
    /// Those that name it themselves: whoever sent it has made the selection.
    Named,
}

/// One rule: all of its clauses. One without any matches everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// All of these.
    pub clauses: Vec<Clause>,
    /// Where it comes from, if its source has lines.
    pub place: Option<Place>,
}

/// One part of a rule: any of its matches. One without any is true.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Clause {
    /// Any of these.
    pub matches: Vec<Match>,
}

/// What is asked of one flow: all fields that are given.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Match {
    /// The namespace in the peer's SPIFFE ID; one of another trust domain is never admitted by it.
    pub namespaces: FieldMatch<StringMatch>,
    /// The service account in the peer's SPIFFE ID; as with `namespaces`.
    pub service_accounts: FieldMatch<ServiceAccountMatch>,
    /// The peer's SPIFFE ID without `spiffe://`.
    pub principals: FieldMatch<StringMatch>,
    /// The TCP peer's address.
    pub source_ips: FieldMatch<IpNet>,
    /// The application's address.
    pub destination_ips: FieldMatch<IpNet>,
    /// The application's port.
    pub destination_ports: FieldMatch<u16>,
}

impl Match {
    /// Whether it asks nothing that L4 can see: what it asked was of HTTP, and was struck out.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Match> for Clause {
    fn from(only: Match) -> Self {
        Self { matches: vec![only] }
    }
}

impl Rule {
    /// What it asks, clause by clause.
    pub fn all_matches(&self) -> impl Iterator<Item = &Match> {
        self.clauses.iter().flat_map(|clause| &clause.matches)
    }
}

/// By what it says: the same rule in another line is the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let Self { clauses, place: _ } = self;
        *clauses == other.clauses
    }
}

impl Eq for Rule {}

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// The workloads that it protects.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Only log what it would have done.
    pub dry_run: bool,
    /// Any of these; none means it never matches.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What each of its rules is called.
    pub fn rule_names(&self) -> impl Iterator<Item = RuleName> {
        let key = self.key();
        let places = self.places().enumerate();
        places.map(move |(number, place)| RuleName::new(&key, number, place.cloned()))
    }

    /// Where each of its rules comes from.
    pub fn places(&self) -> impl Iterator<Item = Option<&Place>> {
        self.rules.iter().map(|rule| rule.place.as_ref())
    }

    /// Whether it protects a workload of this namespace with these labels, asked by key.
    #[must_use]
    pub fn applies_to<'a>(&self, namespace: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        match &self.scope {
            Scope::Global => true,
            Scope::Named => false,
            Scope::Namespace => namespace == self.namespace,
            Scope::Selector { labels: wanted, everywhere } => {
                (*everywhere || namespace == self.namespace)
                    && wanted.iter().all(|(key, value)| label(key) == Some(value))
            }
        }
    }
}
