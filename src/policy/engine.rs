//! The verdict on one flow: DENY before ALLOW, and a word on why.

use std::{fmt, sync::Arc};

use super::{Action, Policy, Rule, index::Index, rule_name::RuleName};
use crate::net::Flow;

/// The policies that protect one workload.
#[derive(Debug, Default)]
pub struct Rules {
    deny: Indexed,
    allow: Indexed,
    dry: Vec<Named>,
    /// Why all calls are denied, if they are.
    nobody: Option<String>,
    /// It is because a policy is not known, which may come.
    lacks_policy: bool,
}

/// Policies of one action, in their order.
#[derive(Debug, Default)]
struct Indexed {
    policies: Vec<Arc<Policy>>,
    /// All of their rules by position: of ten thousand a decision looks at a few, and each piece of
    /// memory between the index and a rule is one that is in no cache.
    rules: Vec<Positioned>,
    /// What each is called, by position.
    names: Vec<RuleName>,
    index: Index,
}

/// A rule where a decision finds it.
#[derive(Debug)]
struct Positioned {
    policy: Arc<Policy>,
    number: usize,
}

impl Positioned {
    fn rule(&self) -> &Rule {
        &self.policy.rules[self.number]
    }
}

impl Indexed {
    fn add(&mut self, policy: &Arc<Policy>) {
        for (number, rule) in policy.rules.iter().enumerate() {
            self.index.add(self.rules.len(), policy.action, rule);
            self.rules.push(Positioned { policy: Arc::clone(policy), number });
        }
        self.names.extend(policy.rule_names());
        self.policies.push(Arc::clone(policy));
    }

    /// The first rule that matches.
    fn matching(&self, flow: &Flow) -> Option<&RuleName> {
        let matches = |position: usize| {
            let positioned = &self.rules[position];
            positioned.rule().matches(positioned.policy.action, flow)
        };
        Some(&self.names[self.index.first(flow, matches)?])
    }

    fn named_rules(&self) -> impl Iterator<Item = (&Rule, &RuleName)> {
        self.rules.iter().map(Positioned::rule).zip(&self.names)
    }

    fn numbered(&self, action: Action) -> impl Iterator<Item = Numbered<'_>> {
        self.named_rules().map(move |(rule, name)| Numbered { rule, action, name })
    }
}

/// A policy that only says what it would do.
#[derive(Debug)]
struct Named {
    policy: Arc<Policy>,
    key: String,
    /// What each of its rules is called.
    rules: Vec<RuleName>,
}

impl Named {
    fn of(policy: &Arc<Policy>) -> Self {
        let (key, rules) = (policy.key(), policy.rule_names().collect());
        Self { policy: Arc::clone(policy), key, rules }
    }

    fn matching(&self, flow: &Flow) -> Option<&RuleName> {
        let hit =
            self.policy.rules.iter().position(|rule| rule.matches(self.policy.action, flow))?;
        Some(&self.rules[hit])
    }

    fn numbered(&self) -> impl Iterator<Item = Numbered<'_>> {
        let action = self.policy.action;
        let rules = self.policy.rules.iter().zip(&self.rules);
        rules.map(move |(rule, name)| Numbered { rule, action, name })
    }
}

/// One rule of a policy.
pub(super) struct Numbered<'a> {
    rule: &'a Rule,
    action: Action,
    pub(super) name: &'a RuleName,
}

impl Numbered<'_> {
    pub(super) fn matches(&self, flow: &Flow) -> bool {
        self.rule.matches(self.action, flow)
    }
}

impl Rules {
    /// Sorts the policies that apply to one workload.
    #[must_use]
    pub fn compile<'a>(policies: impl Iterator<Item = &'a Arc<Policy>>) -> Self {
        let mut rules = Self::default();
        for policy in policies {
            match (policy.dry_run, policy.action) {
                (true, _) => rules.dry.push(Named::of(policy)),
                (false, Action::Deny) => rules.deny.add(policy),
                (false, Action::Allow) => rules.allow.add(policy),
            }
        }
        rules
    }

    /// For a workload that is not in the mesh: all calls to it are denied.
    #[must_use]
    pub fn deny_all() -> Self {
        Self { nobody: Some("the destination is not in the mesh".into()), ..Self::default() }
    }

    /// Adds that `policy`, which also selects the workload, is missing: all callers are denied.
    /// DENY policies still match first.
    #[must_use]
    pub fn without(self, policy: &str) -> Self {
        let nobody = Some(format!("policy {policy} has not been received"));
        Self { nobody, lacks_policy: true, ..self }
    }

    /// Whether all calls are denied because a policy is not known.
    #[must_use]
    pub fn lacks_policy(&self) -> bool {
        self.lacks_policy
    }

    /// How many policies there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deny.policies.len() + self.allow.policies.len() + self.dry.len()
    }

    /// Whether one of them allows anything.
    #[must_use]
    pub fn allows(&self) -> bool {
        !self.allow.rules.is_empty()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rule that denies a flow.
    pub(super) fn denying(&self, flow: &Flow) -> Option<&RuleName> {
        self.deny.matching(flow)
    }

    /// What dry-run policies that deny would do.
    pub(super) fn dry_run_denials(&self, flow: &Flow) -> impl Iterator<Item = String> {
        let denials = self.dry.iter().filter(|named| named.policy.action == Action::Deny);
        denials.filter_map(|named| would_do(named, flow))
    }

    /// The rules that deny, in the order in which they are asked.
    pub(super) fn denials(&self) -> impl Iterator<Item = Numbered<'_>> {
        self.deny.numbered(Action::Deny)
    }

    /// The rules that allow, in the order in which they are asked.
    pub(super) fn grants(&self) -> impl Iterator<Item = Numbered<'_>> {
        self.allow.numbered(Action::Allow)
    }

    /// The rules that only say what they would do.
    pub(super) fn dry_runs(&self) -> impl Iterator<Item = Numbered<'_>> {
        self.dry.iter().flat_map(Named::numbered)
    }
}

/// What the policies say of one flow.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    outcome: RuleOutcome<'a>,
    dry_run: Vec<String>,
}

#[derive(Debug)]
enum RuleOutcome<'a> {
    NoPolicy,
    Allowed { by: &'a RuleName },
    Denied { by: &'a RuleName },
    NoneAllowed { allow: &'a Indexed, flow: &'a Flow },
    Nobody { why: &'a str },
}

impl<'a> Verdict<'a> {
    /// Whether the flow may pass.
    pub(super) fn allowed(&self) -> bool {
        matches!(self.outcome, RuleOutcome::NoPolicy | RuleOutcome::Allowed { .. })
    }

    /// Whether there is no policy that could allow it, and none that denies it.
    pub(super) fn no_policy(&self) -> bool {
        matches!(self.outcome, RuleOutcome::NoPolicy)
    }

    /// Whether all calls are denied, whoever the caller is.
    pub(super) fn nobody_may(&self) -> bool {
        matches!(self.outcome, RuleOutcome::Nobody { .. })
    }

    /// The rule that allows it.
    pub(super) fn allowed_by(&self) -> Option<&'a RuleName> {
        match self.outcome {
            RuleOutcome::Allowed { by } => Some(by),
            _ => None,
        }
    }

    /// The rule that denies it.
    pub(super) fn denied_by(&self) -> Option<&'a RuleName> {
        match self.outcome {
            RuleOutcome::Denied { by } => Some(by),
            _ => None,
        }
    }

    /// What dry-run policies would have done, once.
    pub(super) fn take_dry_run(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dry_run)
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            RuleOutcome::NoPolicy => f.write_str("allowed: no policy applies"),
            RuleOutcome::Allowed { by } => write!(f, "allowed by {by}"),
            RuleOutcome::Denied { by } => write!(f, "explicitly denied by {by}"),
            RuleOutcome::NoneAllowed { allow, flow } => {
                f.write_str("allow policies exist, but none allowed; closest: ")?;
                f.write_str(&closest(allow, flow))
            }
            RuleOutcome::Nobody { why } => f.write_str(why),
        }
    }
}

/// Asks the rules of the destination about a flow (istio-ambient facts §10): any DENY that
/// matches denies; else all calls are denied where a policy is not known; else without any ALLOW it
/// passes; else one ALLOW must match.
pub(super) fn authorize<'a>(rules: &'a Rules, flow: &'a Flow) -> Verdict<'a> {
    let dry_run = rules.dry.iter().filter_map(|named| would_do(named, flow)).collect();
    Verdict { outcome: decide(rules, flow), dry_run }
}

fn decide<'a>(rules: &'a Rules, flow: &'a Flow) -> RuleOutcome<'a> {
    if let Some(by) = rules.denying(flow) {
        return RuleOutcome::Denied { by };
    }
    if let Some(why) = &rules.nobody {
        return RuleOutcome::Nobody { why };
    }
    if rules.allow.policies.is_empty() {
        return RuleOutcome::NoPolicy;
    }
    match rules.allow.matching(flow) {
        Some(by) => RuleOutcome::Allowed { by },
        None => RuleOutcome::NoneAllowed { allow: &rules.allow, flow },
    }
}

fn would_do(named: &Named, flow: &Flow) -> Option<String> {
    match (named.policy.action, named.matching(flow)) {
        (Action::Deny, Some(by)) => Some(format!("would be denied by {by}")),
        (Action::Allow, Some(by)) => Some(format!("would be allowed by {by}")),
        (Action::Allow, None) => Some(format!("would not be allowed by {}", named.key)),
        (Action::Deny, None) => None,
    }
}

/// The rule that the fewest fields keep from matching, the first of them, and what those are. Who is
/// denied may call again and again: where there are many rules, the first are compared.
fn closest(allow: &Indexed, flow: &Flow) -> String {
    let rules = allow.named_rules().take(MOST_COMPARED);
    match rules.min_by_key(|(rule, _)| rule.distance(flow)) {
        Some((rule, name)) => format!("{name}: {}", rule.misses(flow).join("; ")),
        None => {
            let named = allow.policies.iter().take(MOST_NAMED);
            let keys: Vec<_> = named.map(|policy| policy.key()).collect();
            format!("{} has no rules, so it allows nobody", keys.join(", "))
        }
    }
}

/// So many rules are compared to explain a denial.
const MOST_COMPARED: usize = 256;
/// So many policies without rules are named.
const MOST_NAMED: usize = 8;

#[cfg(test)]
mod tests;
