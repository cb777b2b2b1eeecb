//! Whether a connection may enter: [`decide`] looks at plain data, writes no record and waits for
//! nothing. What it answers, a [`Trace`], says which rule decided and what was looked at; a
//! [`Decision`] is what stays of it in the record. Asked when a connection opens, and again when
//! the rules change.

use std::{fmt, sync::Arc};

use super::{
    Place,
    engine::{self, Rules, Verdict},
    rule_name::RuleName,
};
use crate::{
    net::{CloseReason, Flow},
    observe::conn::ConnMetadata,
};

/// A trace names at most so many rules.
const LOOKED_AT: usize = 256;

/// What protects the destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protection<'a> {
    /// Its policies, if it has any.
    pub rules: Option<&'a Rules>,
    /// Plaintext may not enter, whatever the policies say (`mtls: strict`).
    pub strict: bool,
}

/// Who wants to enter.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The caller as it is proven, and where it wants to go.
    pub flow: &'a Flow,
    /// `flow` once for each further SPIFFE ID in the caller's certificate. These are not proven: no
    /// `ALLOW` rule matches them, but a `DENY` rule may.
    pub as_shown: &'a [Flow],
    /// Whether an `ALLOW` may admit it. A certificate that breaks a rule for X.509-SVIDs proves no
    /// ID, and its caller may be denied by it all the same.
    pub proven: bool,
    /// What is asked beside the policies.
    pub access: AccessRules<'a>,
}

impl<'a> Request<'a> {
    /// Where policies alone decide.
    #[must_use]
    pub fn of(flow: &'a Flow) -> Self {
        Self { flow, as_shown: &[], proven: true, access: AccessRules::Absent }
    }
}

/// What the access rules beside the policies say of the caller.
#[derive(Clone, Copy)]
pub enum AccessRules<'a> {
    /// There are none: where no `ALLOW` applies, whoever is not denied may enter.
    Absent,
    /// This one admits the caller, unless a policy denies it.
    Admit(&'a str),
    /// None admits the caller: a policy must. The sentence for the record if none does.
    NoMatch(&'a dyn fmt::Display),
}

/// When a decision was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// Before the connection was opened.
    AtOpening,
    /// While it was open, as the rules had changed.
    WhileOpen,
}

/// Whether a connection may enter, with what led to that.
pub struct Trace<'a> {
    protection: Protection<'a>,
    request: &'a Request<'a>,
    outcome: Ruling<'a>,
    dry_run: Vec<String>,
}

enum Ruling<'a> {
    AllowedByDefault,
    AllowedByAccessRule(&'a str),
    AllowedByPolicy(&'a RuleName),
    PlaintextRefused,
    Denied(&'a RuleName),
    /// No rule admits the caller; the words of the policies, if they have any.
    NotAllowed(Option<Verdict<'a>>),
}

/// One rule that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LookedAt<'a> {
    /// `mtls: strict`, the access rule that admits, or `namespace/name rule N` of a policy.
    pub rule: &'a str,
    /// Where the rule comes from, if it is of a policy whose source has lines.
    pub place: Option<&'a Place>,
    /// It only says what it would do.
    pub dry_run: bool,
    /// Whether it is about this connection.
    pub matched: bool,
}

impl<'a> LookedAt<'a> {
    fn of(rule: &'a str, matched: bool) -> Self {
        Self { rule, place: None, dry_run: false, matched }
    }

    fn of_policy(name: &'a RuleName, matched: bool) -> Self {
        Self { place: name.place.as_ref(), ..Self::of(&name.numbered, matched) }
    }
}

/// What stays of a trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The rule that decided, if one did: `namespace/name rule N`, or the word of an access rule.
    pub rule: Option<Arc<str>>,
    /// What dry-run policies would have done.
    pub dry_run: Option<Box<str>>,
    /// Why the connection may not enter, if it may not.
    pub refused: Option<(CloseReason, String)>,
}

/// Decides whether a connection may enter. In this order: plaintext is refused if mTLS is strict; a
/// matching `DENY` policy refuses; every caller is refused if a policy is missing or the workload
/// is not in the mesh; otherwise, if there are access rules or `ALLOW` policies, one of them must
/// match.
#[must_use]
pub fn decide<'a>(protection: Protection<'a>, request: &'a Request<'a>) -> Trace<'a> {
    let trace = |outcome, dry_run| Trace { protection, request, outcome, dry_run };
    if protection.strict && request.flow.peer_id.is_none() {
        return trace(Ruling::PlaintextRefused, Vec::new());
    }
    let rules = protection.rules;
    let mut verdict = rules.map(|rules| engine::authorize(rules, request.flow));
    let mut dry_run = verdict.as_mut().map(Verdict::take_dry_run).unwrap_or_default();
    for shown in request.as_shown {
        for more in rules.iter().flat_map(|rules| rules.dry_run_denials(shown)) {
            if !dry_run.contains(&more) {
                dry_run.push(more);
            }
        }
    }
    let by_shown = || rules.and_then(|r| request.as_shown.iter().find_map(|f| r.denying(f)));
    let denied = verdict.as_ref().and_then(Verdict::denied_by).or_else(by_shown);
    if let Some(by) = denied {
        return trace(Ruling::Denied(by), dry_run);
    }
    if verdict.as_ref().is_some_and(Verdict::nobody_may) {
        return trace(Ruling::NotAllowed(verdict), dry_run);
    }
    let by_policy = verdict.as_ref().and_then(Verdict::allowed_by).filter(|_| request.proven);
    let outcome = match (request.access, by_policy) {
        (AccessRules::Admit(rule), _) => Ruling::AllowedByAccessRule(rule),
        (_, Some(by)) => Ruling::AllowedByPolicy(by),
        (AccessRules::Absent, None) if verdict.as_ref().is_none_or(Verdict::no_policy) => {
            Ruling::AllowedByDefault
        }
        (_, None) => Ruling::NotAllowed(verdict),
    };
    trace(outcome, dry_run)
}

impl<'a> Trace<'a> {
    /// Whether the connection may enter.
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(
            self.outcome,
            Ruling::AllowedByDefault | Ruling::AllowedByAccessRule(_) | Ruling::AllowedByPolicy(_)
        )
    }

    /// Whether a rule says that it may not enter, so that nothing else is to be asked.
    #[must_use]
    pub fn denied(&self) -> bool {
        match &self.outcome {
            Ruling::PlaintextRefused | Ruling::Denied(_) => true,
            Ruling::NotAllowed(verdict) => verdict.as_ref().is_some_and(Verdict::nobody_may),
            _ => false,
        }
    }

    /// What dry-run policies would have done.
    #[must_use]
    pub fn dry_run(&self) -> &[String] {
        &self.dry_run
    }

    /// The rules that were looked at, in their order up to the one that decided, then those of
    /// dry-run policies; at most 256. Found out as they are read.
    pub fn looked_at(&self) -> impl Iterator<Item = LookedAt<'a>> + use<'a> {
        let plaintext = self.protection.strict.then(|| {
            let matched = matches!(self.outcome, Ruling::PlaintextRefused);
            LookedAt::of("mtls: strict", matched)
        });
        let asked = self.protection.rules.filter(|_| plaintext.as_ref().is_none_or(|p| !p.matched));
        let named = match self.request.access {
            AccessRules::Admit(rule) => Some(LookedAt::of(rule, true)),
            _ => None,
        };
        let (request, named_one) = (self.request, named.is_some());
        let flows = move || std::iter::once(request.flow).chain(request.as_shown);
        let denials = asked.into_iter().flat_map(Rules::denials).map(move |rule| {
            let matched = flows().any(|flow| rule.matches(flow));
            LookedAt::of_policy(rule.name, matched)
        });
        let grants = asked.filter(move |_| !named_one).into_iter().flat_map(Rules::grants);
        let grants = grants.map(move |rule| {
            let matched = request.proven && rule.matches(request.flow);
            LookedAt::of_policy(rule.name, matched)
        });
        let mut decided = false;
        let asked_for = denials.chain(named).chain(grants).take_while(move |looked| {
            let more = !decided;
            decided |= looked.matched;
            more
        });
        let dry_run = asked.into_iter().flat_map(Rules::dry_runs).map(move |rule| {
            let matched = rule.matches(request.flow);
            LookedAt { dry_run: true, ..LookedAt::of_policy(rule.name, matched) }
        });
        plaintext.into_iter().chain(asked_for).chain(dry_run).take(LOOKED_AT)
    }

    /// Why the connection may not enter.
    fn refusal(&self, asked: Asked) -> Option<(CloseReason, String)> {
        let denied = |why| Some((CloseReason::PolicyDenied, why));
        match &self.outcome {
            Ruling::PlaintextRefused => {
                let why = match asked {
                    Asked::WhileOpen => "mtls is strict now",
                    Asked::AtOpening => {
                        "plaintext while mtls is strict; the caller must be in the mesh, or the \
                         file must say `mtls: permissive`"
                    }
                };
                Some((CloseReason::PlaintextRefused, why.to_owned()))
            }
            Ruling::Denied(by) => denied(format!("explicitly denied by {by}")),
            Ruling::NotAllowed(verdict) => {
                let said = verdict.as_ref().filter(|v| !v.allowed()).map(Verdict::to_string);
                denied(said.unwrap_or_else(|| match self.request.access {
                    AccessRules::NoMatch(why) => why.to_string(),
                    _ => "no rule allows the caller".to_owned(),
                }))
            }
            _ => None,
        }
    }

    /// What stays of it.
    #[must_use]
    pub fn decision(self, asked: Asked) -> Decision {
        let refused = self.refusal(asked).map(|(reason, why)| match asked {
            Asked::AtOpening => (reason, why),
            Asked::WhileOpen => (CloseReason::PolicyChanged, why),
        });
        let rule = match self.outcome {
            Ruling::AllowedByAccessRule(rule) => Some(rule.into()),
            Ruling::AllowedByPolicy(by) | Ruling::Denied(by) => Some(Arc::clone(&by.numbered)),
            _ => None,
        };
        let dry_run = (!self.dry_run.is_empty()).then(|| self.dry_run.join("; ").into());
        Decision { rule, dry_run, refused }
    }
}

impl Decision {
    /// Writes into a record what was decided. An open connection's says why it is closed; one that
    /// may stay keeps the words of its opening.
    pub fn record(&self, facts: &mut ConnMetadata, asked: Asked) {
        match (asked, &self.refused) {
            (Asked::AtOpening, _) => {}
            (Asked::WhileOpen, Some((_, why))) => {
                facts.error = Some(format!("closed due to policy change: {why}").into());
            }
            (Asked::WhileOpen, None) => return,
        }
        facts.policy.clone_from(&self.rule);
        facts.dry_run.clone_from(&self.dry_run);
    }

    /// Nothing if the connection may enter.
    ///
    /// # Errors
    /// Why it may not.
    pub fn allowed(self) -> Result<(), (CloseReason, String)> {
        self.refused.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
