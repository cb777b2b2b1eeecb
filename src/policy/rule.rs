//! An `AuthorizationPolicy` as adit holds it.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

use super::{FieldMatch, Place, RuleName, ServiceAccountMatch, StringMatch, matcher::within};
use crate::net::Flow;

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
}

/// `from.source`: all fields that are given must match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    /// The peer's SPIFFE ID without `spiffe://`.
    pub principals: FieldMatch<StringMatch>,
    /// The namespace in the peer's SPIFFE ID; one of another trust domain is never admitted by it.
    pub namespaces: FieldMatch<StringMatch>,
    /// The service account in the peer's SPIFFE ID; as with `namespaces`.
    pub service_accounts: FieldMatch<ServiceAccountMatch>,
    /// The TCP peer's address.
    pub ip_blocks: FieldMatch<IpNet>,
}

/// `to.operation`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Operation {
    /// The application's port.
    pub ports: FieldMatch<u16>,
}

/// One line of `when`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// `source.ip`
    SourceIp(FieldMatch<IpNet>),
    /// `source.namespace`
    SourceNamespace(FieldMatch<StringMatch>),
    /// `source.principal`
    SourcePrincipal(FieldMatch<StringMatch>),
    /// `source.serviceAccount`
    SourceServiceAccount(FieldMatch<ServiceAccountMatch>),
    /// `destination.ip`
    DestinationIp(FieldMatch<IpNet>),
    /// `destination.port`
    DestinationPort(FieldMatch<u16>),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceIp(values) => write!(f, "source.ip: {values}"),
            Self::SourceNamespace(values) => write!(f, "source.namespace: {values}"),
            Self::SourcePrincipal(values) => write!(f, "source.principal: {values}"),
            Self::SourceServiceAccount(values) => write!(f, "source.serviceAccount: {values}"),
            Self::DestinationIp(values) => write!(f, "destination.ip: {values}"),
            Self::DestinationPort(values) => write!(f, "destination.port: {values}"),
        }
    }
}

/// One rule: any `from`, any `to`, all of `when`. One without anything matches everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Callers.
    pub from: Vec<Source>,
    /// Ports.
    pub to: Vec<Operation>,
    /// Further conditions.
    pub when: Vec<Condition>,
    /// Where it comes from, if its source has lines.
    pub place: Option<Place>,
}

/// By what it says: the same rule in another line is the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let Self { from, to, when, place: _ } = self;
        (from, to, when) == (&other.from, &other.to, &other.when)
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
    /// Whom it protects.
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
            Scope::Namespace => namespace == self.namespace,
            Scope::Selector { labels: wanted, everywhere } => {
                (*everywhere || namespace == self.namespace)
                    && wanted.iter().all(|(key, value)| label(key) == Some(value))
            }
        }
    }
}

/// What a match means, and whether `principals` names the caller beside it.
type How = (Action, bool);

impl Rule {
    pub(super) fn matches(&self, action: Action, flow: &Flow) -> bool {
        let (from, when) = self.named();
        let (from, when) = ((action, from), (action, when));
        (self.from.is_empty() || self.from.iter().any(|s| s.matches(from, flow, &mut NoNotes)))
            && (self.to.is_empty() || self.to.iter().any(|o| o.matches(flow, &mut NoNotes)))
            && self.when.iter().all(|c| c.matches(when, flow, &mut NoNotes))
    }

    /// Whether whoever reaches a `from`, and a `when`, is named by a principal elsewhere.
    fn named(&self) -> (bool, bool) {
        let when = self
            .when
            .iter()
            .any(|c| matches!(c, Condition::SourcePrincipal(f) if !f.any.is_empty()));
        let from = &self.from;
        (when, when || !from.is_empty() && from.iter().all(|s| !s.principals.any.is_empty()))
    }

    /// What keeps this rule of an `ALLOW` from matching: for `from` and `to` the alternative
    /// that comes closest.
    pub(super) fn misses(&self, flow: &Flow) -> Vec<String> {
        let (from, when) = self.named();
        let (from, when) = ((Action::Allow, from), (Action::Allow, when));
        let from = self.from.iter().map(|s| noted(|notes| s.matches(from, flow, notes)));
        let mut all = closest(from);
        all.extend(closest(self.to.iter().map(|o| noted(|notes| o.matches(flow, notes)))));
        self.when.iter().for_each(|c| all.extend(noted(|notes| c.matches(when, flow, notes))));
        all
    }
}

fn closest(alternatives: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    alternatives.min_by_key(Vec::len).unwrap_or_default()
}

fn noted(ask: impl FnOnce(&mut Vec<String>) -> bool) -> Vec<String> {
    let mut notes = Vec::new();
    ask(&mut notes);
    notes
}

/// Takes note of a field that did not match; says whether to look at the other fields too.
trait Notes {
    fn miss(&mut self, text: impl FnOnce() -> String) -> bool;
}

/// Deciding: the first miss ends it.
struct NoNotes;

impl Notes for NoNotes {
    fn miss(&mut self, _: impl FnOnce() -> String) -> bool {
        false
    }
}

/// Explaining: every miss is written down.
impl Notes for Vec<String> {
    fn miss(&mut self, text: impl FnOnce() -> String) -> bool {
        self.push(text());
        true
    }
}

fn principal(flow: &Flow) -> &str {
    flow.peer_id.as_ref().map_or("", |id| id.principal())
}

fn namespace(flow: &Flow) -> &str {
    flow.peer_id.as_ref().and_then(|id| id.kubernetes()).map_or("", |(namespace, _)| namespace)
}

fn caller(flow: &Flow) -> &str {
    if flow.peer_id.is_some() { principal(flow) } else { "(none: plaintext)" }
}

fn principals(field: &FieldMatch<StringMatch>, flow: &Flow, notes: &mut impl Notes) -> bool {
    field.holds(|m| flow.peer_id.is_some() && m.matches(principal(flow)))
        || notes.miss(|| format!("principal {} is not {field}", caller(flow)))
}

/// A field that names no trust domain. It admits (what an `ALLOW` names, what a `DENY` leaves
/// out) those of our own only, and it refuses those of any: another trust domain may call its
/// namespaces as it likes. So an `ALLOW` that only leaves some out admits our own, but for a caller
/// that `principals` beside it names (`named`).
fn of_our_own<T>(
    field: &FieldMatch<T>,
    (action, named): How,
    flow: &Flow,
    hit: impl Fn(&T) -> bool,
) -> bool {
    let admits = |item: &T| !flow.foreign && hit(item);
    match action {
        Action::Allow if field.is_empty() || named => field.matches(admits, &hit),
        Action::Allow => !flow.foreign && field.holds(hit),
        Action::Deny => field.matches(&hit, admits),
    }
}

fn of_elsewhere(flow: &Flow) -> &'static str {
    if flow.foreign { " of another trust domain (`principals` admits such a caller)" } else { "" }
}

fn namespaces(
    field: &FieldMatch<StringMatch>,
    action: How,
    flow: &Flow,
    notes: &mut impl Notes,
) -> bool {
    of_our_own(field, action, flow, |m| m.matches(namespace(flow)))
        || notes.miss(|| {
            format!("namespace {:?}{} is not {field}", namespace(flow), of_elsewhere(flow))
        })
}

fn accounts(
    field: &FieldMatch<ServiceAccountMatch>,
    action: How,
    flow: &Flow,
    notes: &mut impl Notes,
) -> bool {
    of_our_own(field, action, flow, |m| m.matches(flow.peer_id.as_ref()))
        || notes.miss(|| {
            format!("service account of {}{} is not {field}", caller(flow), of_elsewhere(flow))
        })
}

fn source_ip(field: &FieldMatch<IpNet>, flow: &Flow, notes: &mut impl Notes) -> bool {
    let ip = flow.peer.0.ip().to_canonical();
    field.holds(|net| within(net, ip))
        || notes.miss(|| format!("source address {ip} is not {field}"))
}

fn port(field: &FieldMatch<u16>, flow: &Flow, notes: &mut impl Notes) -> bool {
    let port = flow.dst.port();
    field.holds(|p| *p == port) || notes.miss(|| format!("port {port} is not {field}"))
}

impl Source {
    /// Whether it matches; with real notes, whether all was looked at.
    fn matches(&self, (action, named): How, flow: &Flow, notes: &mut impl Notes) -> bool {
        let action = (action, named || !self.principals.any.is_empty());
        principals(&self.principals, flow, notes)
            && namespaces(&self.namespaces, action, flow, notes)
            && accounts(&self.service_accounts, action, flow, notes)
            && source_ip(&self.ip_blocks, flow, notes)
    }

    /// Whether it asks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Operation {
    fn matches(&self, flow: &Flow, notes: &mut impl Notes) -> bool {
        port(&self.ports, flow, notes)
    }
}

impl Condition {
    fn matches(&self, action: How, flow: &Flow, notes: &mut impl Notes) -> bool {
        match self {
            Self::SourceIp(field) => source_ip(field, flow, notes),
            Self::SourceNamespace(field) => namespaces(field, action, flow, notes),
            Self::SourcePrincipal(field) => principals(field, flow, notes),
            Self::SourceServiceAccount(field) => accounts(field, action, flow, notes),
            Self::DestinationIp(field) => {
                let ip = flow.dst.ip().to_canonical();
                field.holds(|net| within(net, ip))
                    || notes.miss(|| format!("destination address {ip} is not {field}"))
            }
            Self::DestinationPort(field) => port(field, flow, notes),
        }
    }
}
