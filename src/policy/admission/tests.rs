//! What is decided of one connection, and what the trace says of it.

use super::*;
use crate::{
    net::{Direction, PeerAddr},
    policy::{Action, FieldMatch, Match, Policy, Rule, Scope, StringMatch},
};

fn flow(peer: Option<&str>) -> Flow {
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr("10.1.2.3:999".parse().unwrap()),
        peer_id: peer.map(|id| format!("spiffe://td/{id}").parse().unwrap()),
        foreign: false,
        other_principals: Vec::new(),
        dst: "10.0.0.9:5432".parse().unwrap(),
    }
}

/// A policy of one rule per principal, which `*` stands for all of.
fn policy(name: &str, action: Action, principals: &[&str]) -> Policy {
    let rule = |principal: &&str| {
        let text = StringMatch::parse(principal).unwrap();
        let principals = FieldMatch { any: vec![text], none: vec![] };
        let named = Match { principals, ..Match::default() };
        Rule { clauses: vec![named.into()], ..Rule::default() }
    };
    let rules = principals.iter().map(rule).collect();
    let (name, namespace, scope) = (name.into(), "n".into(), Scope::Global);
    Policy { name, namespace, scope, action, dry_run: false, rules }
}

fn dry(policy: Policy) -> Policy {
    Policy { dry_run: true, ..policy }
}

fn rules(policies: impl IntoIterator<Item = Policy>) -> Rules {
    Rules::compile(policies.into_iter().map(Arc::new).collect::<Vec<_>>().iter())
}

fn under(rules: &Rules) -> Protection<'_> {
    Protection { rules: Some(rules), strict: false }
}

fn rule_of(decision: &Decision) -> Option<&str> {
    decision.rule.as_deref()
}

#[test]
fn strict_refuses_plaintext_before_any_policy() {
    let rules = rules([policy("a", Action::Allow, &["*"])]);
    let (plain, proven) = (flow(None), flow(Some("a")));
    for (strict, flow, reason) in [
        (true, &plain, Some(CloseReason::PlaintextRefused)),
        (true, &proven, None),
        (false, &plain, Some(CloseReason::PolicyDenied)),
    ] {
        let request = Request::of(flow);
        let trace = decide(Protection { strict, ..under(&rules) }, &request);
        assert_eq!(trace.allowed(), reason.is_none());
        let decision = trace.decision(Asked::AtOpening);
        assert_eq!(decision.refused.map(|(reason, _)| reason), reason);
    }
    let request = Request::of(&plain);
    let trace = decide(Protection { strict: true, rules: None }, &request);
    assert!(trace.denied(), "nothing else is to be asked");
    let looked: Vec<_> = trace.looked_at().map(|l| (l.rule, l.matched)).collect();
    assert_eq!(looked, [("mtls: strict", true)]);
    let decision = trace.decision(Asked::WhileOpen);
    let expected = (CloseReason::PolicyChanged, "mtls is strict now".to_owned());
    assert_eq!(decision.refused, Some(expected));
}

#[test]
fn a_deny_is_asked_before_an_allow_and_before_names() {
    let rules = rules([
        policy("a", Action::Allow, &["*"]),
        policy("d", Action::Deny, &["td/other", "td/bad"]),
    ]);
    let (good, bad) = (flow(Some("good")), flow(Some("bad")));
    for access in [AccessRules::Absent, AccessRules::Admit("cn"), AccessRules::NoMatch(&"no")] {
        let request = Request { access, ..Request::of(&bad) };
        let trace = decide(under(&rules), &request);
        assert!(trace.denied() && !trace.allowed());
        let decision = trace.decision(Asked::AtOpening);
        assert_eq!(rule_of(&decision), Some("n/d rule 1"));
        let why = "explicitly denied by n/d rule 1".to_owned();
        assert_eq!(decision.refused, Some((CloseReason::PolicyDenied, why)));
        let request = Request { access, ..Request::of(&good) };
        let decision = decide(under(&rules), &request).decision(Asked::AtOpening);
        assert_eq!(decision.refused, None);
        let by = if matches!(access, AccessRules::Admit(_)) { "cn" } else { "n/a rule 0" };
        assert_eq!(rule_of(&decision), Some(by));
    }
}

/// As it was before there was one function: policies alone let everybody in where none allows
/// anything; access rules let nobody in whom they do not name.
#[test]
fn where_no_rule_says_anything_the_access_rules_decide() {
    let caller = flow(Some("a"));
    let denies = rules([policy("d", Action::Deny, &["td/other"])]);
    let allows = rules([policy("a", Action::Allow, &["td/other"])]);
    let closest = "allow policies exist, but none allowed; closest: n/a rule 0: principal td/a is \
                   not one of [td/other]";
    for (rules, access, refused) in [
        (None, AccessRules::Absent, None),
        (None, AccessRules::Admit("cn"), None),
        (None, AccessRules::NoMatch(&"unnamed"), Some("unnamed")),
        (Some(&denies), AccessRules::Absent, None),
        (Some(&denies), AccessRules::NoMatch(&"unnamed"), Some("unnamed")),
        (Some(&allows), AccessRules::Absent, Some(closest)),
        (Some(&allows), AccessRules::Admit("cn"), None),
        (Some(&allows), AccessRules::NoMatch(&"unnamed"), Some(closest)),
    ] {
        let request = Request { access, ..Request::of(&caller) };
        let trace = decide(Protection { rules, strict: false }, &request);
        assert!(!trace.denied(), "a Rego policy may still admit it");
        let decision = trace.decision(Asked::AtOpening);
        assert_eq!(decision.refused.as_ref().map(|(_, why)| why.as_str()), refused);
        assert!(refused.is_none() || decision.rule.is_none());
    }
    let nobody = Rules::deny_all();
    let request = Request { access: AccessRules::Admit("cn"), ..Request::of(&caller) };
    assert!(decide(under(&nobody), &request).denied());
}

/// Several names prove none: each may be denied, and no ALLOW goes by them.
#[test]
fn every_name_that_is_shown_can_be_denied_and_none_admits() {
    let unproven = flow(None);
    let shown = [flow(Some("good")), flow(Some("bad"))];
    let request = |access| Request { as_shown: &shown, access, ..Request::of(&unproven) };
    let named = request(AccessRules::Admit("cn"));
    let unnamed = request(AccessRules::NoMatch(&"unnamed"));
    let denies = rules([
        policy("d", Action::Deny, &["td/bad"]),
        dry(policy("dry", Action::Deny, &["td/good"])),
    ]);
    let decision = decide(under(&denies), &named).decision(Asked::AtOpening);
    assert_eq!(rule_of(&decision), Some("n/d rule 0"));
    assert!(decision.refused.is_some());
    assert_eq!(decision.dry_run.as_deref(), Some("would be denied by n/dry rule 0"));
    let allows = rules([policy("a", Action::Allow, &["td/good", "td/bad"])]);
    assert!(!decide(under(&allows), &unnamed).allowed());
    let faulted = flow(Some("good"));
    let request = Request { proven: false, access: unnamed.access, ..Request::of(&faulted) };
    assert!(!decide(under(&allows), &request).allowed());
}

#[test]
fn dry_run_is_told_and_decides_nothing() {
    let rules = rules([
        dry(policy("d", Action::Deny, &["td/a"])),
        dry(policy("a", Action::Allow, &["td/other"])),
    ]);
    let caller = flow(Some("a"));
    let request = Request::of(&caller);
    let trace = decide(under(&rules), &request);
    assert!(trace.allowed());
    let told = ["would be denied by n/d rule 0", "would not be allowed by n/a"];
    assert_eq!(trace.dry_run(), told);
    let decision = trace.decision(Asked::AtOpening);
    let mut facts = ConnMetadata::default();
    decision.record(&mut facts, Asked::AtOpening);
    assert_eq!(facts.dry_run.as_deref(), Some(told.join("; ").as_str()));
    assert_eq!((facts.policy, facts.error), (None, None));
}

#[test]
fn the_trace_names_what_was_looked_at() {
    let rules = rules([
        policy("a", Action::Allow, &["td/x", "td/a", "td/*"]),
        policy("d", Action::Deny, &["td/other"]),
        dry(policy("dry", Action::Deny, &["td/a"])),
    ]);
    let looked = |peer: Option<&str>, access| {
        let flow = flow(peer);
        let request = Request { access, ..Request::of(&flow) };
        let trace = decide(under(&rules), &request);
        let looked = trace
            .looked_at()
            .map(|l| format!("{}{} {}", if l.dry_run { "dry " } else { "" }, l.rule, l.matched));
        looked.collect::<Vec<_>>()
    };
    let absent = AccessRules::Absent;
    assert_eq!(
        looked(Some("a"), absent),
        ["n/d rule 0 false", "n/a rule 0 false", "n/a rule 1 true", "dry n/dry rule 0 true"]
    );
    let dry = "dry n/dry rule 0 false";
    assert_eq!(looked(Some("other"), absent), ["n/d rule 0 true", dry]);
    let named = AccessRules::Admit("cn");
    assert_eq!(looked(Some("b"), named), ["n/d rule 0 false", "cn true", dry]);
}

/// Words for people say where a rule stands; what programs read is its number alone.
#[test]
fn a_rule_of_a_file_is_named_with_its_line() {
    let placed = |policy: Policy, line| {
        let place = crate::policy::Place { file: "mesh.yaml".into(), line };
        let rule = |rule: Rule| Rule { place: Some(place.clone()), ..rule };
        Policy { rules: policy.rules.into_iter().map(rule).collect(), ..policy }
    };
    let rules = rules([
        placed(policy("a", Action::Allow, &["td/x"]), 7),
        placed(policy("d", Action::Deny, &["td/bad"]), 15),
        placed(dry(policy("dry", Action::Deny, &["td/bad"])), 20),
    ]);
    let (bad, other) = (flow(Some("bad")), flow(Some("other")));
    let request = Request::of(&bad);
    let trace = decide(under(&rules), &request);
    let first = trace.looked_at().next().unwrap();
    assert_eq!(first.place.unwrap().to_string(), "mesh.yaml:15");
    let decision = trace.decision(Asked::AtOpening);
    assert_eq!(rule_of(&decision), Some("n/d rule 0"));
    let dry = Some("would be denied by n/dry rule 0 (mesh.yaml:20)");
    assert_eq!(decision.dry_run.as_deref(), dry);
    let (_, why) = decision.refused.unwrap();
    assert_eq!(why, "explicitly denied by n/d rule 0 (mesh.yaml:15)");
    let decision = decide(under(&rules), &Request::of(&other)).decision(Asked::AtOpening);
    let (_, why) = decision.refused.unwrap();
    assert!(why.contains("closest: n/a rule 0 (mesh.yaml:7): principal td/other"), "{why}");
}

/// Whoever writes a thousand rules is not shown each of them.
#[test]
fn a_trace_ends() {
    let names: Vec<String> = (0..1000).map(|n| format!("td/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let rules = rules([policy("d", Action::Deny, &names)]);
    let caller = flow(Some("a"));
    let request = Request::of(&caller);
    assert_eq!(decide(under(&rules), &request).looked_at().count(), LOOKED_AT);
}

/// An open connection's record says why it is closed; one that may stay keeps what it said.
#[test]
fn a_record_of_an_open_connection_says_why_it_is_closed() {
    let rules = rules([policy("d", Action::Deny, &["td/bad"])]);
    for (peer, policy, error) in [
        ("good", "cn", None),
        ("bad", "n/d rule 0", Some("closed due to policy change: explicitly denied by n/d rule 0")),
    ] {
        let caller = flow(Some(peer));
        let request = Request { access: AccessRules::Admit("cn"), ..Request::of(&caller) };
        let decision = decide(under(&rules), &request).decision(Asked::WhileOpen);
        let mut facts = ConnMetadata { policy: Some("cn".into()), ..ConnMetadata::default() };
        decision.record(&mut facts, Asked::WhileOpen);
        assert_eq!((facts.policy.as_deref(), facts.error.as_deref()), (Some(policy), error));
        let reason = decision.refused.map(|(reason, _)| reason);
        assert_eq!(reason, error.map(|_| CloseReason::PolicyChanged));
    }
}
