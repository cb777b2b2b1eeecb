//! Truth tables of the engine, in the policy language's own fields.

use proptest::prelude::*;

use super::*;
use crate::{
    net::{Direction, PeerAddr},
    policy::{
        Condition, FieldMatch, Operation, Rule, Scope, ServiceAccountMatch, Source, StringMatch,
    },
};

fn flow(peer: Option<&str>) -> Flow {
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr("10.1.2.3:999".parse().unwrap()),
        peer_id: peer.map(|id| format!("spiffe://{id}").parse().unwrap()),
        foreign: peer.is_some_and(|id| !id.starts_with("td/")),
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

fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

fn principals(field: FieldMatch<StringMatch>) -> Rule {
    from(Source { principals: field, ..Source::default() })
}

fn compile(policies: Vec<Policy>) -> Rules {
    Rules::compile(policies.into_iter().map(Arc::new).collect::<Vec<_>>().iter())
}

#[test]
fn every_field_and_its_not_form_with_and_without_identity() {
    let namespaces = |field| from(Source { namespaces: field, ..Source::default() });
    let accounts = |field| from(Source { service_accounts: field, ..Source::default() });
    let blocks = |field| from(Source { ip_blocks: field, ..Source::default() });
    let ports = |ports| Rule { to: vec![Operation { ports }], ..Rule::default() };
    let when = |condition| Rule { when: vec![condition], ..Rule::default() };
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
        ("when ip", when(Condition::SourceIp(any(net("10.0.0.0/8")))), true, true),
        ("when namespace", when(Condition::SourceNamespace(any(text("s*")))), true, false),
        ("when principal", when(Condition::SourcePrincipal(none(text(WEB)))), false, true),
        ("when account", when(Condition::SourceServiceAccount(any(account("web")))), true, false),
        ("when dst", when(Condition::DestinationIp(any(net("10.0.0.9/32")))), true, true),
        ("when port", when(Condition::DestinationPort(none(80))), true, true),
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
    let namespaces = |field| from(Source { namespaces: field, ..Source::default() });
    let account = || ServiceAccountMatch { namespace: "shop".into(), account: "web".into() };
    let accounts = |field| from(Source { service_accounts: field, ..Source::default() });
    let when = |condition| Rule { when: vec![condition], ..Rule::default() };
    let everybody = || policy("all", Action::Allow, vec![Rule::default()]);
    let other = || ServiceAccountMatch { account: "other".into(), ..account() };
    let named_and_not = || {
        let (principals, namespaces) = (any(text(NAMESAKE)), none(text("x")));
        from(Source { principals, namespaces, ..Source::default() })
    };
    for (name, action, rule, own, foreign) in [
        ("principals", Action::Allow, principals(any(text(NAMESAKE))), false, true),
        ("namespaces", Action::Allow, namespaces(any(text("shop"))), true, false),
        ("presence", Action::Allow, namespaces(any(text("*"))), true, false),
        ("accounts", Action::Allow, accounts(any(account())), true, false),
        ("when", Action::Allow, when(Condition::SourceNamespace(any(text("shop")))), true, false),
        ("not namespaces", Action::Allow, namespaces(none(text("shop"))), false, false),
        ("not others", Action::Allow, namespaces(none(text("x"))), true, false),
        ("not other accounts", Action::Allow, accounts(none(other())), true, false),
        ("when not", Action::Allow, when(Condition::SourceNamespace(none(text("x")))), true, false),
        ("named and not", Action::Allow, named_and_not(), false, true),
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
        let verdict = authorize(&rules, &flow(Some(NAMESAKE)));
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
        let rules = compile(policies);
        let verdict = authorize(&rules, &flow(Some(WEB)));
        assert_eq!(verdict.allowed(), allowed, "{verdict}");
        assert!(verdict.to_string().contains(said), "{verdict} should say {said}");
    }
    assert!(!authorize(&Rules::deny_all(), &flow(Some(WEB))).allowed());
}

#[test]
fn from_and_to_must_both_match_and_each_has_alternatives() {
    let source = |p: &str| Source { principals: any(text(p)), ..Source::default() };
    let rule = Rule {
        from: vec![source("td/x"), source(WEB)],
        to: vec![Operation { ports: any(1) }, Operation { ports: any(5432) }],
        when: vec![Condition::DestinationPort(any(5432))],
        place: None,
    };
    let rules = compile(vec![policy("p", Action::Allow, vec![rule.clone()])]);
    assert!(authorize(&rules, &flow(Some(WEB))).allowed());
    let narrower = Rule { to: vec![Operation { ports: any(1) }], ..rule };
    let rules = compile(vec![policy("p", Action::Allow, vec![narrower])]);
    assert!(!authorize(&rules, &flow(Some(WEB))).allowed());
}

#[test]
fn all_lines_of_when_must_hold() {
    let (here, elsewhere) =
        (Condition::DestinationPort(any(5432)), Condition::DestinationPort(any(1)));
    let (own, other) =
        (Condition::SourcePrincipal(any(text(WEB))), Condition::SourcePrincipal(any(text("td/x"))));
    for (when, allowed) in [
        (vec![here.clone(), own.clone()], true),
        (vec![here.clone(), other.clone()], false),
        (vec![other.clone(), here], false),
        (vec![elsewhere.clone(), own], false),
        (vec![elsewhere, other], false),
    ] {
        let rule = |when: &Vec<_>| Rule { when: when.clone(), ..Rule::default() };
        let rules = compile(vec![policy("p", Action::Allow, vec![rule(&when)])]);
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), allowed, "{when:?}");
        let rules = compile(vec![policy("p", Action::Deny, vec![rule(&when)])]);
        assert_eq!(authorize(&rules, &flow(Some(WEB))).allowed(), !allowed, "DENY {when:?}");
    }
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
        let mut verdict = authorize(&rules, &flow(Some(WEB)));
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
    let far = Rule {
        to: vec![Operation { ports: any(80) }],
        ..principals(any(text("td/ns/shop/sa/other")))
    };
    let near = Rule { to: vec![Operation { ports: any(80) }], ..principals(any(text(WEB))) };
    let rules = compile(vec![policy("p", Action::Allow, vec![far, near])]);
    let verdict = authorize(&rules, &flow(Some(WEB)));
    let closest = "closest: shop/p rule 1: port 5432 is not one of [80]";
    assert!(verdict.to_string().ends_with(closest), "{verdict}");
    assert!(verdict.allowed_by().or(verdict.denied_by()).is_none());
}

#[test]
fn dry_run_says_what_would_be_and_decides_nothing() {
    let dry = |name, action, rules| Policy { dry_run: true, ..policy(name, action, rules) };
    let rules = compile(vec![
        dry("d", Action::Deny, vec![Rule::default()]),
        dry("a", Action::Allow, vec![principals(any(text("td/x")))]),
    ]);
    let mut verdict = authorize(&rules, &flow(Some(WEB)));
    assert!(verdict.allowed());
    assert_eq!(
        verdict.take_dry_run(),
        ["would be denied by shop/d rule 0", "would not be allowed by shop/a"]
    );
}

proptest! {
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
