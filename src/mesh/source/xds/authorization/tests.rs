//! Whatever istiod sends: read or refused, and what is read says what the facts say (§10).

use std::{net::SocketAddr, sync::Arc};

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    identity::SpiffeId,
    net::{Direction, Flow, PeerAddr},
    policy::{
        Rules,
        admission::{self, Protection, Request},
    },
};

const NAMESPACE: &str = "shop";

fn flow(peer: Option<&str>) -> Flow {
    let peer_id: Option<SpiffeId> = peer.map(|id| id.parse().unwrap());
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr("10.1.2.3:999".parse().unwrap()),
        foreign: peer_id.as_ref().is_some_and(|id| id.trust_domain().as_str() != "td"),
        other_principals: Vec::new(),
        peer_id,
        dst: "10.0.0.9:5432".parse().unwrap(),
    }
}

fn text(kind: MatchType) -> proto::StringMatch {
    proto::StringMatch { match_type: Some(kind) }
}

fn exactly(said: &str) -> proto::StringMatch {
    text(MatchType::Exact(said.into()))
}

fn authorization(matches: Vec<proto::Match>) -> proto::Authorization {
    let clauses = matches.into_iter().map(|m| proto::Clause { matches: vec![m] }).collect();
    proto::Authorization {
        name: "p".into(),
        namespace: NAMESPACE.into(),
        action: proto::Action::Deny.into(),
        rules: vec![proto::Rule { clauses }],
        ..Default::default()
    }
}

fn allowed(policy: &Policy, flow: &Flow) -> bool {
    let rules = Rules::compile([Arc::new(policy.clone())].iter());
    let request = Request::of(flow);
    admission::decide(Protection { rules: Some(&rules), strict: false }, &request).allowed()
}

/// As istiod writes `PeerAuthentication` with `STRICT`.
#[test]
fn strict_mtls_as_a_policy_denies_who_shows_no_certificate() {
    let unauthenticated =
        proto::Match { not_principals: vec![text(MatchType::Presence(()))], ..Default::default() };
    let port = proto::Match { not_destination_ports: vec![8080], ..Default::default() };
    let message = proto::Authorization {
        name: "istio_converted_static_strict".into(),
        namespace: "istio-system".into(),
        ..authorization(vec![unauthenticated.clone()])
    };
    let strict = decode(message).unwrap();
    assert_eq!(strict.key(), "istio-system/istio_converted_static_strict");
    assert!(!allowed(&strict, &flow(None)));
    assert!(allowed(&strict, &flow(Some("spiffe://td/ns/shop/sa/web"))));
    assert!(allowed(&strict, &flow(Some("spiffe://other/x"))));
    let but_one = decode(authorization(vec![unauthenticated, port])).unwrap();
    let excepted = Flow { dst: "10.0.0.9:8080".parse().unwrap(), ..flow(None) };
    assert!(!allowed(&but_one, &flow(None)) && allowed(&but_one, &excepted));
}

/// Of the transcript of a real istiod: only HTTP, so that nothing is left.
#[test]
fn a_deny_of_which_istiod_left_nothing_denies_nobody_and_says_so() {
    let policy = decode(authorization(vec![proto::Match::default()])).unwrap();
    assert!(allowed(&policy, &flow(None)));
    assert_eq!(policy.http_parts().count(), 1);
}

#[test]
fn scope_and_dry_run_are_told_apart() {
    for (scope, read) in [
        (proto::Scope::Global, Scope::Global),
        (proto::Scope::Namespace, Scope::Namespace),
        (proto::Scope::WorkloadSelector, Scope::Named),
    ] {
        let message =
            proto::Authorization { scope: scope.into(), dry_run: true, ..authorization(vec![]) };
        let policy = decode(message).unwrap();
        assert_eq!((policy.scope, policy.dry_run), (read, true));
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let address = |bytes: &[u8], length| proto::Address { address: bytes.into(), length };
    let of = |last| authorization(vec![proto::Match::default(), last]);
    let base = proto::Match::default;
    for (message, said) in [
        (
            proto::Authorization { name: String::new(), ..of(base()) },
            "name is empty or has a slash",
        ),
        (
            proto::Authorization { namespace: "a/b".into(), ..of(base()) },
            "namespace is empty or has a slash",
        ),
        (proto::Authorization { scope: 3, ..of(base()) }, "scope 3 is not known"),
        (proto::Authorization { action: 2, ..of(base()) }, "action 2 is not known"),
        (
            of(proto::Match { principals: vec![Default::default()], ..base() }),
            "rules[0].clauses[1].matches[0].principals: a string match has none of exact, prefix, \
             suffix and presence",
        ),
        (
            of(proto::Match { source_ips: vec![address(&[10, 0, 0], 8)], ..base() }),
            "rules[0].clauses[1].matches[0].sourceIps: an address has 3 bytes; expected 4 or 16",
        ),
        (
            of(proto::Match { not_source_ips: vec![address(&[10, 0, 0, 0], 33)], ..base() }),
            "rules[0].clauses[1].matches[0].notSourceIps: a prefix of 33 bits is too long for 10.0.0.0",
        ),
        (
            of(proto::Match { destination_ips: vec![address(&[0; 16], 264)], ..base() }),
            "rules[0].clauses[1].matches[0].destinationIps: a prefix of 264 bits is too long for ::",
        ),
        (
            of(proto::Match { not_destination_ports: vec![80, 65_616], ..base() }),
            "rules[0].clauses[1].matches[0].notDestinationPorts: port 65616 does not exist",
        ),
    ] {
        assert_eq!(decode(message).unwrap_err().to_string(), said);
    }
}

/// Of a later control plane: what it asks beside what is known.
#[test]
fn an_extension_makes_no_match_of_an_allow_wider() {
    let extensions = vec![proto::Extension { name: "later".into() }];
    let web = "spiffe://td/ns/shop/sa/web";
    let principals = vec![exactly(&web["spiffe://".len()..])];
    let with = proto::Match { principals, extensions, ..Default::default() };
    let deny = authorization(vec![with]);
    let allow = proto::Authorization { action: proto::Action::Allow.into(), ..deny.clone() };
    for message in [deny, allow] {
        assert!(!allowed(&decode(message).unwrap(), &flow(Some(web))));
    }
}

/// The facts (§10) as they stand, on the message itself.
mod facts {
    use super::*;

    fn string(m: &proto::StringMatch, value: &str) -> bool {
        match m.match_type.as_ref().expect("what is not set was refused") {
            MatchType::Exact(x) => value == x,
            MatchType::Prefix(x) => value.starts_with(x),
            MatchType::Suffix(x) => value.ends_with(x),
            MatchType::Presence(()) => !value.is_empty(),
        }
    }

    fn within(block: &proto::Address, ip: IpAddr) -> bool {
        let ip = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let bit = |bytes: &[u8], n: usize| bytes[n / 8] >> (7 - n % 8) & 1;
        ip.len() == block.address.len()
            && (0..block.length as usize).all(|n| bit(&ip, n) == bit(&block.address, n))
    }

    fn kind<T>(any: &[T], none: &[T], hit: impl Fn(&T) -> bool) -> bool {
        (any.is_empty() || any.iter().any(&hit)) && !none.iter().any(&hit)
    }

    fn matches(m: &proto::Match, flow: &Flow) -> bool {
        let id = flow.peer_id.as_ref();
        let pair = id.and_then(SpiffeId::kubernetes);
        kind(&m.namespaces, &m.not_namespaces, |s| string(s, pair.map_or("", |(ns, _)| ns)))
            && kind(&m.service_accounts, &m.not_service_accounts, |a| {
                pair == Some((&a.namespace, &a.service_account))
            })
            && kind(&m.principals, &m.not_principals, |s| {
                id.is_some_and(|id| string(s, &id.as_str()["spiffe://".len()..]))
            })
            && kind(&m.source_ips, &m.not_source_ips, |b| within(b, flow.peer.0.ip()))
            && kind(&m.destination_ips, &m.not_destination_ips, |b| within(b, flow.dst.ip()))
            && kind(&m.destination_ports, &m.not_destination_ports, |p| {
                *p == u32::from(flow.dst.port())
            })
    }

    /// Whether it asks nothing but what a later control plane may add.
    fn is_blank(m: &proto::Match) -> bool {
        let known = proto::Match { extensions: vec![], ..m.clone() };
        known == proto::Match::default()
    }

    /// Whether one of its rules matches.
    pub(super) fn policy(policy: &proto::Authorization, flow: &Flow) -> bool {
        let clause = |clause: &proto::Clause| {
            let mut asked = clause.matches.iter().filter(|m| !is_blank(m));
            clause.matches.is_empty() || asked.any(|m| matches(m, flow))
        };
        policy.rules.iter().any(|rule| rule.clauses.iter().all(clause))
    }

    /// Whether it has a rule that asks for something of HTTP beside what L4 sees.
    pub(super) fn is_about_http(policy: &proto::Authorization) -> bool {
        let mut all = policy.rules.iter().flat_map(|r| &r.clauses).flat_map(|c| &c.matches);
        all.any(is_blank)
    }
}

fn strings() -> impl Strategy<Value = Vec<proto::StringMatch>> {
    let said = prop_oneof!["td/ns/(shop|bank)/sa/(web|db)", "shop|bank|td|sh|b|", "[a-z/]{0,4}"];
    let kind = (0..8_u8, said).prop_map(|(kind, said)| match kind {
        0..=3 => exactly(&said),
        4 => text(MatchType::Prefix(said)),
        5 => text(MatchType::Suffix(said)),
        _ => text(MatchType::Presence(())),
    });
    few(kind)
}

/// Most lists are empty, or nothing would ever match.
fn few<T: Strategy>(of: T) -> impl Strategy<Value = Vec<T::Value>>
where
    T::Value: Clone,
{
    prop_oneof![4 => Just(Vec::new()), 1 => proptest::collection::vec(of, 1..3)]
}

fn blocks() -> impl Strategy<Value = Vec<proto::Address>> {
    let four = (any::<[u8; 2]>(), 0..=32_u32).prop_map(|(low, length)| proto::Address {
        address: vec![10, low[0] % 3, low[1] % 3, 3],
        length,
    });
    let six = (0..=128_u32).prop_map(|length| proto::Address {
        address: "2001:db8::3".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
        length,
    });
    few(prop_oneof![four, six])
}

fn ports() -> impl Strategy<Value = Vec<u32>> {
    few(prop_oneof![Just(80_u32), Just(5432)])
}

fn accounts() -> impl Strategy<Value = Vec<proto::ServiceAccountMatch>> {
    few(("shop|bank", "web|db").prop_map(|(namespace, service_account)| {
        proto::ServiceAccountMatch { namespace, service_account }
    }))
}

fn matches() -> impl Strategy<Value = proto::Match> {
    let callers = (strings(), strings(), strings(), strings(), accounts(), accounts());
    let places = (blocks(), blocks(), blocks(), blocks(), ports(), ports());
    (callers, places).prop_map(|(callers, places)| proto::Match {
        namespaces: callers.0,
        not_namespaces: callers.1,
        principals: callers.2,
        not_principals: callers.3,
        service_accounts: callers.4,
        not_service_accounts: callers.5,
        source_ips: places.0,
        not_source_ips: places.1,
        destination_ips: places.2,
        not_destination_ips: places.3,
        destination_ports: places.4,
        not_destination_ports: places.5,
        extensions: vec![],
    })
}

fn policies() -> impl Strategy<Value = proto::Authorization> {
    use proptest::collection::vec;
    let clause = vec(matches(), 0..3).prop_map(|matches| proto::Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| proto::Rule { clauses });
    (vec(rule, 0..3), 0..2_i32).prop_map(|(rules, action)| proto::Authorization {
        rules,
        action,
        ..authorization(vec![])
    })
}

fn flows() -> impl Strategy<Value = Flow> {
    let id = prop_oneof![
        1 => Just(None),
        4 => "spiffe://td/ns/(shop|bank)/sa/(web|db)".prop_map(Some),
        2 => "spiffe://other/ns/(shop|bank)/sa/(web|db)".prop_map(Some),
        1 => Just(Some("spiffe://td/else".to_owned())),
    ];
    let ip = prop_oneof![Just("10.1.2.3"), Just("10.0.0.3"), Just("2001:db8::3")];
    let port = prop_oneof![Just(80_u16), Just(5432)];
    (id, ip.clone(), ip, port).prop_map(|(id, from, to, port)| Flow {
        peer: PeerAddr(SocketAddr::new(from.parse().unwrap(), 999)),
        dst: SocketAddr::new(to.parse().unwrap(), port),
        ..flow(id.as_deref())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The same verdict, but for callers of another trust domain and for conditions on HTTP: there
    /// an `ALLOW` admits no more, and a `DENY` no more either.
    #[test]
    fn a_policy_says_what_the_facts_say(message in policies(), flow in flows()) {
        let policy = decode(message.clone()).unwrap();
        let matched = facts::policy(&message, &flow);
        let expected = matched == (policy.action == Action::Allow);
        let ours = allowed(&policy, &flow);
        let stricter = flow.foreign || facts::is_about_http(&message);
        prop_assert!(ours == expected || stricter && !ours, "{policy:?}: {ours}");
        prop_assert_eq!(policy.http_parts().count() > 0, facts::is_about_http(&message));
    }

    #[test]
    fn no_message_is_read_as_wider_than_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = proto::Authorization::decode(&bytes[..])
            && let Ok(policy) = decode(message.clone())
        {
            for flow in [flow(None), flow(Some("spiffe://td/ns/shop/sa/web"))] {
                let matched = facts::policy(&message, &flow);
                let expected = matched == (policy.action == Action::Allow);
                prop_assert!(expected || policy.dry_run || !allowed(&policy, &flow));
            }
        }
    }

    /// One byte of a policy is another.
    #[test]
    fn a_damaged_policy_is_refused_or_no_wider(
        message in policies(), at in any::<prop::sample::Index>(), byte in any::<u8>(), flow in flows(),
    ) {
        let mut bytes = message.encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = proto::Authorization::decode(&bytes[..])
            && let Ok(policy) = decode(message.clone())
        {
            let matched = facts::policy(&message, &flow);
            let expected = matched == (policy.action == Action::Allow);
            prop_assert!(expected || policy.dry_run || !allowed(&policy, &flow));
        }
    }
}
