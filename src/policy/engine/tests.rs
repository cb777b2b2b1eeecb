//! Truth tables of the engine, in the policy language's own fields.

mod aliases;

use proptest::prelude::*;

use super::*;
use crate::{
    net::{Direction, PeerAddr},
    policy::{Clause, FieldMatch, HttpPart, Match, Rule, Scope, ServiceAccountMatch, StringMatch},
};

fn flow(peer: Option<&str>) -> Flow {
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr("10.1.2.3:999".parse().unwrap()),
        peer_id: peer.map(|id| format!("spiffe://{id}").parse().unwrap()),
        foreign: peer.is_some_and(|id| !id.starts_with("td/")),
        other_principals: Vec::new(),
        dst: "10.0.0.9:5432".parse().unwrap(),
    }
}

const WEB: &str = "td/ns/shop/sa/web";

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    let (name, namespace) = (name.into(), "shop".into());
    Policy { name, namespace, scope: Scope::Namespace, action, dry_run: false, rules }
}

fn any<T>(item: T) -> FieldMatch<T> {
    FieldMatch { any: vec![item], none: vec![] }
}

fn none<T>(item: T) -> FieldMatch<T> {
    FieldMatch { any: vec![], none: vec![item] }
}

fn text(text: &str) -> StringMatch {
    StringMatch::parse(text).unwrap()
}

fn asks(all: impl IntoIterator<Item = Match>) -> Rule {
    Rule { clauses: all.into_iter().map(Clause::from).collect(), ..Rule::default() }
}

fn principal(field: FieldMatch<StringMatch>) -> Match {
    Match { principals: field, ..Match::default() }
}

fn ports(field: FieldMatch<u16>) -> Match {
    Match { destination_ports: field, ..Match::default() }
}

fn principals(field: FieldMatch<StringMatch>) -> Rule {
    asks([principal(field)])
}

fn compile(policies: Vec<Policy>) -> Rules {
    Rules::compile(policies.into_iter().map(Arc::new).collect::<Vec<_>>().iter())
}

#[test]
fn every_field_and_its_not_form_with_and_without_identity() {
    let namespaces = |field| asks([Match { namespaces: field, ..Match::default() }]);
    let accounts = |field| asks([Match { service_accounts: field, ..Match::default() }]);
    let blocks = |field| asks([Match { source_ips: field, ..Match::default() }]);
    let targets = |field| asks([Match { destination_ips: field, ..Match::default() }]);
    let ports = |field| asks([ports(field)]);
    let account =
        |name: &str| ServiceAccountMatch { namespace: "shop".into(), account: name.into() };
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    // (rule, matches the web pod, matches a plaintext caller)
    for (name, rule, web, plain) in [
        ("exact", principals(any(text(WEB))), true, false),
        ("exact other", principals(any(text("td/ns/shop/sa/db"))), false, false),
        ("prefix", principals(any(text("td/ns/shop/*"))), true, false),
        ("suffix", principals(any(text("*/sa/web"))), true, false),
        ("presence", principals(any(text("*"))), true, false),
        ("not exact", principals(none(text(WEB))), false, true),
        ("not other", principals(none(text("x/y"))), true, true),
        ("not presence", principals(none(text("*"))), false, true),
        ("case", principals(any(text("td/ns/SHOP/sa/web"))), false, false),
        ("namespace", namespaces(any(text("shop"))), true, false),
        ("not namespace", namespaces(none(text("shop"))), false, true),
        ("account", accounts(any(account("web"))), true, false),
        ("not account", accounts(none(account("web"))), false, true),
        ("ip", blocks(any(net("10.1.0.0/16"))), true, true),
        ("not ip", blocks(none(net("10.1.2.3/32"))), false, false),
        ("port", ports(any(5432)), true, true),
        ("other port", ports(any(5433)), false, false),
        ("not port", ports(none(5432)), false, false),
        ("some namespaces", namespaces(any(text("s*"))), true, false),
        ("target", targets(any(net("10.0.0.9/32"))), true, true),
        ("not target", targets(none(net("10.0.0.0/8"))), false, false),
        ("not other port", ports(none(80)), true, true),
        ("nothing that is seen", asks([Match::default()]), false, false),
        ("an empty clause", Rule { clauses: vec![Clause::default()], place: None }, true, true),
        ("empty rule", Rule::default(), true, true),
    ] {
        let rules = compile(vec![policy("p", Action::Allow, vec![rule])]);
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), web, "{name}");
        assert_eq!(authorize(&rules, &flow(None)).allowed(), plain, "{name}, plaintext");
    }
}

/// A federated trust domain may give its own `ns/shop/sa/web` to whom it likes.
#[test]
fn a_foreign_namesake_is_admitted_by_principals_only_and_refused_by_every_field() {
    const NAMESAKE: &str = "other.td/ns/shop/sa/web";
    let namespaces = |field| asks([Match { namespaces: field, ..Match::default() }]);
    let account = || ServiceAccountMatch { namespace: "shop".into(), account: "web".into() };
    let accounts = |field| asks([Match { service_accounts: field, ..Match::default() }]);
    let everybody = || policy("all", Action::Allow, vec![Rule::default()]);
    let other = || ServiceAccountMatch { account: "other".into(), ..account() };
    let named_and_not = || {
        let (principals, namespaces) = (any(text(NAMESAKE)), none(text("x")));
        asks([Match { principals, namespaces, ..Match::default() }])
    };
    let named_elsewhere = || {
        let namespaces = Match { namespaces: none(text("x")), ..Match::default() };
        asks([namespaces, principal(any(text(NAMESAKE)))])
    };
    for (name, action, rule, own, foreign) in [
        ("principals", Action::Allow, principals(any(text(NAMESAKE))), false, true),
        ("namespaces", Action::Allow, namespaces(any(text("shop"))), true, false),
        ("presence", Action::Allow, namespaces(any(text("*"))), true, false),
        ("accounts", Action::Allow, accounts(any(account())), true, false),
        ("not namespaces", Action::Allow, namespaces(none(text("shop"))), false, false),
        ("not others", Action::Allow, namespaces(none(text("x"))), true, false),
        ("not other accounts", Action::Allow, accounts(none(other())), true, false),
        ("named and not", Action::Allow, named_and_not(), false, true),
        ("named in another clause", Action::Allow, named_elsewhere(), false, true),
        ("deny namespaces", Action::Deny, namespaces(any(text("shop"))), false, false),
        ("deny accounts", Action::Deny, accounts(any(account())), false, false),
        ("deny not namespaces", Action::Deny, namespaces(none(text("shop"))), true, false),
        ("deny not accounts", Action::Deny, accounts(none(account())), true, false),
    ] {
        let rules = match action {
            Action::Allow => compile(vec![policy("p", action, vec![rule])]),
            Action::Deny => compile(vec![everybody(), policy("p", action, vec![rule])]),
        };
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), own, "{name}");
        let namesake = flow(Some(NAMESAKE));
        let verdict = authorize(&rules, &namesake);
        assert_eq!(verdict.allowed(), foreign, "{name}, foreign: {verdict}");
        if name == "namespaces" {
            let said = verdict.to_string();
            assert!(said.contains("of another trust domain (`principals`"), "{said}");
        }
    }
}

#[test]
fn deny_is_asked_before_allow_and_the_decider_is_named() {
    let everybody = || vec![Rule::default()];
    let web = || vec![principals(any(text(WEB)))];
    for (policies, allowed, said) in [
        (vec![], true, "allowed: no policy applies"),
        (vec![policy("a", Action::Allow, web())], true, "allowed by shop/a rule 0"),
        (
            vec![policy("a", Action::Allow, vec![])],
            false,
            "shop/a has no rules, so it allows nobody",
        ),
        (vec![policy("d", Action::Deny, vec![])], true, "no policy applies"),
        (
            vec![policy("a", Action::Allow, everybody()), policy("d", Action::Deny, web())],
            false,
            "explicitly denied by shop/d rule 0",
        ),
        (vec![policy("d", Action::Deny, vec![principals(none(text("*")))])], true, "no policy"),
    ] {
        let (rules, web) = (compile(policies), flow(Some(WEB)));
        let verdict = authorize(&rules, &web);
        assert_eq!(verdict.allowed(), allowed, "{verdict}");
        assert!(verdict.to_string().contains(said), "{verdict} should say {said}");
    }
    assert!(!authorize(&Rules::deny_all(), &flow(Some(WEB))).allowed());
}

#[test]
fn every_clause_must_match_and_each_has_alternatives() {
    let rule = |callers: &[&str], targets: &[u16]| {
        let callers = callers.iter().map(|c| principal(any(text(c)))).collect();
        let targets = targets.iter().map(|p| ports(any(*p))).collect();
        let clauses = [callers, targets].map(|matches| Clause { matches }).into();
        Rule { clauses, place: None }
    };
    for (callers, targets, matches) in [
        (&["td/x", WEB][..], &[1, 5432][..], true),
        (&[WEB, "td/x"], &[5432, 1], true),
        (&["td/x", WEB], &[1], false),
        (&["td/x"], &[1, 5432], false),
        (&["td/x"], &[1], false),
    ] {
        let rule = rule(callers, targets);
        let rules = compile(vec![policy("p", Action::Allow, vec![rule.clone()])]);
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), matches, "{rule:?}");
        let rules = compile(vec![policy("p", Action::Deny, vec![rule.clone()])]);
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), !matches, "DENY {rule:?}");
    }
}

/// istiod strikes out of a `DENY` what is about HTTP.
#[test]
fn a_deny_with_conditions_on_http_applies_by_its_l4_part_and_says_so() {
    let blank = Match::default;
    let web = || principal(any(text(WEB)));
    let either = |matches| Rule { clauses: vec![Clause { matches }], place: None };
    let both = |matches| Rule {
        clauses: vec![Clause { matches }, ports(any(5432)).into()],
        ..Rule::default()
    };
    let (left_out, skipped) = (Some(HttpPart::LeftOut), Some(HttpPart::Skipped));
    // (rule, part, denies the web pod, denies another, an ALLOW of it admits the web pod)
    for (name, rule, part, denies_web, denies_other, allows_web) in [
        ("only HTTP", asks([blank()]), skipped, false, false, false),
        ("only HTTP, twice", asks([blank(), blank()]), skipped, false, false, false),
        ("a caller and HTTP", asks([web(), blank()]), left_out, true, false, false),
        ("a caller or HTTP", either(vec![web(), blank()]), skipped, true, false, true),
        ("either of them, at a port", both(vec![web(), blank()]), left_out, true, true, true),
        ("a caller", asks([web()]), None, true, false, true),
    ] {
        let denies = policy("p", Action::Deny, vec![rule.clone()]);
        assert_eq!(denies.http_parts().next().map(|(_, part)| part), part, "{name}");
        let (deny, allow) =
            (compile(vec![denies]), compile(vec![policy("p", Action::Allow, vec![rule])]));
        let denied = |peer| !authorize(&deny, &flow(Some(peer))).allowed();
        assert_eq!((denied(WEB), denied("td/x")), (denies_web, denies_other), "{name}");
        assert_eq!(authorize(&allow, &flow(Some(WEB))).allowed(), allows_web, "ALLOW {name}");
    }
    let (rules, web) =
        (compile(vec![policy("p", Action::Allow, vec![asks([blank()])])]), flow(Some(WEB)));
    let said = authorize(&rules, &web).to_string();
    assert!(said.ends_with("rule 0: adit (L4) never matches a condition on HTTP (L7)"), "{said}");
}

/// By its place among the rules of its own policy, and by that policy's name.
#[test]
fn the_rule_that_decided_is_the_one_that_is_named() {
    let rules = || {
        let misses = || principals(any(text("td/x")));
        vec![misses(), misses(), principals(any(text(WEB))), Rule::default()]
    };
    let nobody = || vec![principals(any(text("td/y")))];
    let dry = |name, action, rules| Policy { dry_run: true, ..policy(name, action, rules) };
    for (action, allowed) in [(Action::Allow, true), (Action::Deny, false)] {
        let all = vec![
            policy("first", action, nobody()),
            policy("p", action, rules()),
            policy("last", action, vec![Rule::default()]),
            dry("dry", action, rules()),
        ];
        let rules = compile(all);
        let web = flow(Some(WEB));
        let mut verdict = authorize(&rules, &web);
        assert_eq!(verdict.allowed(), allowed);
        let by = verdict.allowed_by().or(verdict.denied_by());
        assert_eq!(by.map(|by| &*by.numbered), Some("shop/p rule 2"), "{action:?}");
        let would = if allowed { "allowed" } else { "denied" };
        assert_eq!(verdict.take_dry_run(), [format!("would be {would} by shop/dry rule 2")]);
    }
}

#[test]
fn a_policy_protects_its_own_namespace_and_from_the_root_all() {
    let labels: std::collections::BTreeMap<_, _> = [("app".to_owned(), "db".to_owned())].into();
    let selector = |everywhere| Scope::Selector { labels: labels.clone(), everywhere };
    let applies = |policy: &Policy, namespace: &str, app: &'static str| {
        policy.applies_to(namespace, |key| (key == "app").then_some(app))
    };
    let own = ("shop", "db");
    // (scope, workloads that it is about, of all)
    let all = [own, ("bank", "db"), ("shop", "web"), ("bank", "web")];
    for (scope, about) in [
        (selector(false), vec![own]),
        (selector(true), vec![own, ("bank", "db")]),
        (Scope::Namespace, vec![own, ("shop", "web")]),
        (Scope::Global, all.to_vec()),
        (Scope::Named, vec![]),
    ] {
        let policy = Policy { scope, ..policy("p", Action::Allow, vec![]) };
        let found = all.into_iter().filter(|(ns, app)| applies(&policy, ns, app));
        assert_eq!(found.collect::<Vec<_>>(), about, "{:?}", policy.scope);
    }
    let both = [("app".to_owned(), "db".to_owned()), ("tier".to_owned(), "one".to_owned())];
    let scope = Scope::Selector { labels: both.into(), everywhere: true };
    let policy = Policy { scope, ..policy("p", Action::Allow, vec![]) };
    assert!(!applies(&policy, "shop", "db"), "all labels of a selector count");
}

#[test]
fn a_denial_names_the_closest_rule_and_what_it_missed() {
    let far = asks([principal(any(text("td/ns/shop/sa/other"))), ports(any(80))]);
    let near = asks([principal(any(text(WEB))), ports(any(80))]);
    let rules = compile(vec![policy("p", Action::Allow, vec![far, near])]);
    let web = flow(Some(WEB));
    let verdict = authorize(&rules, &web);
    let closest = "closest: shop/p rule 1: port 5432 is not one of [80]";
    assert!(verdict.to_string().ends_with(closest), "{verdict}");
    assert!(verdict.allowed_by().or(verdict.denied_by()).is_none());
}

/// Whoever is denied may ask for that as often as it likes.
#[test]
fn a_denial_by_very_many_rules_is_explained_by_the_first_and_shortly() {
    let names = (0..100).map(|n| text(&format!("td/ns/shop/sa/{n}"))).collect::<Vec<_>>();
    let many = FieldMatch { any: names, none: vec![] };
    let far = asks([principal(many), ports(any(80))]);
    let near = asks([principal(any(text(WEB))), ports(any(80))]);
    let mut all = vec![far; MOST_COMPARED];
    all.push(near.clone());
    let web = flow(Some(WEB));
    let rules = compile(vec![policy("p", Action::Allow, all.clone())]);
    let said = authorize(&rules, &web).to_string();
    assert!(said.contains("closest: shop/p rule 0: principal"), "{said}");
    assert!(said.contains("90 more]") && said.len() < 1000, "{said}");
    all.insert(0, near);
    let rules = compile(vec![policy("p", Action::Allow, all)]);
    assert!(authorize(&rules, &web).to_string().contains("rule 0: port 5432 is not one of [80]"));
}

#[test]
fn who_is_denied_by_a_policy_that_is_known_is_so_where_another_is_not() {
    let denies = policy("d", Action::Deny, vec![asks([principal(any(text(WEB)))])]);
    let rules = compile(vec![denies]).without("shop/lost");
    let (web, other) = (flow(Some(WEB)), flow(Some("td/ns/shop/sa/other")));
    assert!(authorize(&rules, &web).denied_by().is_some());
    assert!(authorize(&rules, &other).nobody_may() && rules.lacks_policy());
}

#[test]
fn dry_run_says_what_would_be_and_decides_nothing() {
    let dry = |name, action, rules| Policy { dry_run: true, ..policy(name, action, rules) };
    let rules = compile(vec![
        dry("d", Action::Deny, vec![Rule::default()]),
        dry("a", Action::Allow, vec![principals(any(text("td/x")))]),
    ]);
    let web = flow(Some(WEB));
    let mut verdict = authorize(&rules, &web);
    assert!(verdict.allowed());
    assert_eq!(
        verdict.take_dry_run(),
        ["would be denied by shop/d rule 0", "would not be allowed by shop/a"]
    );
}

/// Rules of which some name callers, some ports, some neither.
fn many_rules() -> impl Strategy<Value = Vec<Rule>> {
    let asked = (0..6_u8, 0..4_u16).prop_map(|(kind, n)| match kind {
        0 | 1 => principal(any(text(&format!("td/ns/shop/sa/{n}")))),
        2 => principal(any(text(&format!("td/ns/shop/sa/{n}*")))),
        3 => principal(none(text(&format!("td/ns/shop/sa/{n}")))),
        4 => ports(any(5430 + n)),
        _ => Match::default(),
    });
    let clause = proptest::collection::vec(asked, 0..3).prop_map(|matches| Clause { matches });
    let clauses = proptest::collection::vec(clause, 1..3);
    let rule = clauses.prop_map(|clauses| Rule { clauses, place: None });
    proptest::collection::vec(rule, 0..8)
}

proptest! {
    #[test]
    fn the_first_rule_of_all_decides_however_many_are_not_asked(
        first in many_rules(), second in many_rules(), caller in 0..5_u8, deny in proptest::bool::ANY,
    ) {
        let action = if deny { Action::Deny } else { Action::Allow };
        let rules = compile(vec![policy("a", action, first), policy("b", action, second)]);
        let id = format!("td/ns/shop/sa/{caller}");
        let flow = flow((caller < 4).then_some(&*id));
        let verdict = authorize(&rules, &flow);
        let one_by_one = rules.denials().chain(rules.grants()).find(|rule| rule.matches(&flow));
        let decided = verdict.denied_by().or(verdict.allowed_by()).map(|name| &name.numbered);
        prop_assert_eq!(decided, one_by_one.map(|rule| &rule.name.numbered));
    }

    #[test]
    fn string_matches_agree_with_a_naive_reading(pattern in "[ab*]{0,4}", value in "[ab]{0,4}") {
        let stars = pattern.matches('*').count();
        let legal = !pattern.is_empty()
            && (stars == 0 || stars == 1 && (pattern.starts_with('*') || pattern.ends_with('*')));
        let parsed = StringMatch::parse(&pattern);
        prop_assert_eq!(parsed.is_some(), legal);
        if let Some(parsed) = parsed {
            let (head, tail) = pattern.split_once('*').unwrap_or((&pattern, ""));
            let expected = match (stars, pattern.as_str()) {
                (0, _) => value == pattern,
                (_, "*") => !value.is_empty(),
                _ => value.starts_with(head) && value.ends_with(tail),
            };
            prop_assert_eq!(parsed.matches(&value), expected);
            prop_assert_eq!(parsed.to_string(), pattern);
        }
    }
}
