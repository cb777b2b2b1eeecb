//! Callers of a trust domain that has other names.

use super::*;
use crate::identity::TrustDomainAliases;

/// A mesh that changes its name: a policy may have any of the names, for callers of each.
#[test]
fn a_caller_of_an_alias_is_whoever_a_policy_names_by_any_of_its_names() {
    let aliases: TrustDomainAliases =
        ["old", "older"].map(|name| name.parse().unwrap()).into_iter().collect();
    let named = |id| flow(Some(id)).with_aliases(&aliases, &"td".parse().unwrap());
    let everybody = || policy("all", Action::Allow, vec![Rule::default()]);
    let namespaces = |field| {
        asks([Match { namespaces: field, principals: none(text("x")), ..Match::default() }])
    };
    // (rule, matches the web pod by whichever name, matches its namesake of elsewhere)
    for (rule, web, namesake) in [
        (principals(any(text(WEB))), true, false),
        (principals(any(text("old/ns/shop/sa/web"))), true, false),
        (principals(any(text("older/ns/shop/sa/web"))), true, false),
        (principals(any(text("old/ns/shop/*"))), true, false),
        (principals(any(text("*older/ns/shop/sa/web"))), true, false),
        (principals(any(text("*"))), true, true),
        (principals(any(text("old/ns/shop/sa/db"))), false, false),
        (principals(any(text("other/ns/shop/sa/web"))), false, true),
        (principals(none(text("older/ns/shop/sa/web"))), false, true),
        (principals(none(text("other/ns/shop/sa/web"))), true, false),
    ] {
        for (id, expected) in [
            (WEB, web),
            ("old/ns/shop/sa/web", web),
            ("older/ns/shop/sa/web", web),
            ("other/ns/shop/sa/web", namesake),
        ] {
            let verdict = |action: Action| {
                let said = policy("p", action, vec![rule.clone()]);
                let rules = match action {
                    Action::Allow => compile(vec![said]),
                    Action::Deny => compile(vec![everybody(), said]),
                };
                authorize(&rules, &named(id)).allowed()
            };
            assert_eq!(verdict(Action::Allow), expected, "{id}: {rule:?}");
            assert_eq!(verdict(Action::Deny), !expected, "{id}: {rule:?}");
        }
    }
    // What names no trust domain admits them as our own.
    let rules = compile(vec![policy("p", Action::Allow, vec![namespaces(any(text("shop")))])]);
    for (id, allowed) in [("old/ns/shop/sa/web", true), ("other/ns/shop/sa/web", false)] {
        assert_eq!(authorize(&rules, &named(id)).allowed(), allowed, "{id}");
    }
}

/// As the certificate of a caller may have it: the longest ID under the shorter of two names.
#[test]
fn a_caller_whose_other_name_is_too_long_for_an_id_is_denied_by_it() {
    let aliases: TrustDomainAliases = ["o".parse().unwrap()].into_iter().collect();
    let long = format!("o/ns/evil/sa/{}", "a".repeat(2_048 - "spiffe://o/ns/evil/sa/".len()));
    let rules = compile(vec![
        policy("all", Action::Allow, vec![Rule::default()]),
        policy("evil", Action::Deny, vec![principals(any(text("trust.domain/ns/evil/*")))]),
    ]);
    for (id, allowed) in [(&*long, false), ("o/ns/evil/sa/a", false), ("o/ns/good/sa/a", true)] {
        let caller = flow(Some(id)).with_aliases(&aliases, &"trust.domain".parse().unwrap());
        assert_eq!(authorize(&rules, &caller).allowed(), allowed, "{id}");
    }
}
