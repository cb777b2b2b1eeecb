//! What a rule says of one flow: whether it matches, and what keeps it from that. Nothing is
//! written down and no text made unless somebody asks for an explanation.
//!
//! Where this is not what every other node proxy does (istio-ambient facts §10), a caller is
//! admitted by less or denied by more, never the other way:
//!
//! * Namespaces and service accounts name no trust domain. They admit callers of our own only, and
//!   refuse those of any ([`of_our_own`]).
//! * A match that asks nothing asked for something of HTTP, and istiod struck that out of a `DENY`.
//!   Everybody skips it, and so the whole rule, even where it also says what L4 can see. Here a
//!   rule of a `DENY` that has a clause without such a match applies by that L4 part alone: who
//!   reaches for `/admin` from a namespace that may not is denied, and so is whoever reaches for
//!   anything else from there. A rule without such a clause is skipped as it is everywhere: all
//!   callers would be denied whatever they ask for. [`Policy::http_parts`] tells of both.
//!
//! As everywhere else, `not_principals` and `not_namespaces` hold for a plaintext caller, who has
//! neither: a `DENY` of all but some names denies it, and `not_principals: *` is exactly such
//! callers (strict mTLS, as istiod writes it). An `ALLOW` of all but some names admits it; the
//! mesh's own mode is what keeps plaintext out of there.

use std::fmt;

use ipnet::IpNet;

use super::{
    Action, Clause, FieldMatch, Match, Policy, Rule, ServiceAccountMatch, StringMatch,
    matcher::within,
};
use crate::net::Flow;

/// How a rule with conditions on HTTP is enforced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HttpPart {
    /// The rule applies by what L4 sees of it: more is denied than the policy says.
    LeftOut,
    /// What it asks of HTTP never matches.
    Skipped,
}

impl fmt::Display for HttpPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeftOut => {
                "has a condition on HTTP (L7), which adit (L4) cannot check: it denies by its \
                 other conditions alone; put it on a waypoint"
            }
            Self::Skipped => {
                "has a condition on HTTP (L7), which adit (L4) cannot check, so it never matches; \
                 put it on a waypoint"
            }
        })
    }
}

impl Policy {
    /// The rules, by their number from 0, that ask for something of HTTP.
    pub fn http_parts(&self) -> impl Iterator<Item = (usize, HttpPart)> {
        let parts = self.rules.iter().map(|rule| rule.http_part(self.action)).enumerate();
        parts.filter_map(|(number, part)| Some((number, part?)))
    }
}

/// What a match means, and whether `principals` names the caller beside it.
type How = (Action, bool);

impl Rule {
    fn http_part(&self, action: Action) -> Option<HttpPart> {
        let asked = self.all_matches().any(Match::is_blank);
        let part = if self.denies_by_l4(action) { HttpPart::LeftOut } else { HttpPart::Skipped };
        asked.then_some(part)
    }

    pub(super) fn matches(&self, action: Action, flow: &Flow) -> bool {
        // Both matter to few: neither is looked for unless it could.
        let how = (action, flow.foreign && self.names_callers());
        self.clauses.iter().all(|clause| {
            clause.matches.is_empty()
                || clause.seen().any(|m| m.matches(how, flow, &mut NoNotes))
                || clause.has_blank() && self.denies_by_l4(action)
        })
    }

    /// Whether it denies by what L4 sees of it: a clause without anything of HTTP.
    fn denies_by_l4(&self, action: Action) -> bool {
        action == Action::Deny
            && self.clauses.iter().any(|c| !c.matches.is_empty() && !c.has_blank())
    }

    /// Whether a principal names whomever it is about.
    fn names_callers(&self) -> bool {
        self.clauses.iter().any(Clause::names_callers)
    }

    /// How many fields keep this rule of an `ALLOW` from matching: in each clause those of the
    /// match that comes closest.
    pub(super) fn distance(&self, flow: &Flow) -> usize {
        self.closest(flow, |missed: &usize| *missed).map(|missed| missed.unwrap_or(1)).sum()
    }

    /// What those fields are.
    pub(super) fn misses(&self, flow: &Flow) -> Vec<String> {
        let texts = self.closest::<Vec<String>>(flow, Vec::len);
        texts.flat_map(|missed| missed.unwrap_or_else(|| vec![UNSEEN.to_owned()])).collect()
    }

    /// For each clause that asks something the notes on its closest match; none where L4 sees
    /// nothing of it.
    fn closest<N: Notes + Default>(
        &self,
        flow: &Flow,
        missed: fn(&N) -> usize,
    ) -> impl Iterator<Item = Option<N>> {
        let how = (Action::Allow, flow.foreign && self.names_callers());
        let clauses = self.clauses.iter().filter(|clause| !clause.matches.is_empty());
        let noted = move |m: &Match| {
            let mut notes = N::default();
            m.matches(how, flow, &mut notes);
            notes
        };
        clauses.map(move |clause| clause.seen().take(MOST_COMPARED).map(noted).min_by_key(missed))
    }
}

/// So many matches of a clause are compared to explain a denial.
const MOST_COMPARED: usize = 64;

/// Why a clause does not match that only HTTP shows.
const UNSEEN: &str = "adit (L4) never matches a condition on HTTP (L7)";

impl Clause {
    /// The matches of which L4 sees anything.
    fn seen(&self) -> impl Iterator<Item = &Match> {
        self.matches.iter().filter(|m| !m.is_blank())
    }

    fn has_blank(&self) -> bool {
        self.matches.iter().any(Match::is_blank)
    }

    fn names_callers(&self) -> bool {
        !self.matches.is_empty() && self.matches.iter().all(|m| !m.principals.any.is_empty())
    }
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

/// Comparing: every miss is counted.
impl Notes for usize {
    fn miss(&mut self, _: impl FnOnce() -> String) -> bool {
        *self += 1;
        true
    }
}

/// Explaining: every miss is written down.
impl Notes for Vec<String> {
    fn miss(&mut self, text: impl FnOnce() -> String) -> bool {
        self.push(text());
        true
    }
}

impl Match {
    /// Whether it matches; with real notes, whether all was looked at.
    fn matches(&self, (action, named): How, flow: &Flow, notes: &mut impl Notes) -> bool {
        let how = (action, named || !self.principals.any.is_empty());
        principals(&self.principals, flow, notes)
            && namespaces(&self.namespaces, how, flow, notes)
            && accounts(&self.service_accounts, how, flow, notes)
            && source_ip(&self.source_ips, flow, notes)
            && destination_ip(&self.destination_ips, flow, notes)
            && port(&self.destination_ports, flow, notes)
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
    field.holds(|m| flow.principals().any(|principal| m.matches(principal)))
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
    if flow.foreign {
        " of another trust domain (`principals` can allow such a caller)"
    } else {
        ""
    }
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

fn destination_ip(field: &FieldMatch<IpNet>, flow: &Flow, notes: &mut impl Notes) -> bool {
    let ip = flow.dst.ip().to_canonical();
    field.holds(|net| within(net, ip))
        || notes.miss(|| format!("destination address {ip} is not {field}"))
}

fn port(field: &FieldMatch<u16>, flow: &Flow, notes: &mut impl Notes) -> bool {
    let port = flow.dst.port();
    field.holds(|p| *p == port) || notes.miss(|| format!("port {port} is not {field}"))
}
