//! What a decision costs where as many policies as the mesh has are about one workload: an `ALLOW`
//! for each of its callers, now and then a `DENY`, and a flow that none of them knows.

use std::{hint::black_box, sync::Arc, time::Instant};

use crate::timing::median;
use adit::{
    net::{Direction, Flow, PeerAddr},
    policy::{
        Action, FieldMatch, Match, Policy, Rule, Rules, Scope, StringMatch,
        admission::{Protection, Request, decide},
    },
};

/// More are not about one workload.
const MOST: usize = 10_000;
const FLOWS: usize = 20_000;

fn caller(n: usize) -> String {
    format!("cluster.local/ns/shop/sa/caller-{n}")
}

fn policy(n: usize) -> Arc<Policy> {
    let named = vec![StringMatch::parse(&caller(n)).expect("a match")];
    let principals = FieldMatch { any: named, none: vec![] };
    let (action, ports) = match n % 10 {
        0 => (Action::Deny, FieldMatch { any: vec![9090], none: vec![] }),
        _ => (Action::Allow, FieldMatch { any: vec![80, 8080], none: vec![] }),
    };
    let who = Match { principals, ..Match::default() };
    let what = Match { destination_ports: ports, ..Match::default() };
    Arc::new(Policy {
        name: format!("p{n}"),
        namespace: "shop".into(),
        scope: Scope::Namespace,
        action,
        dry_run: false,
        rules: vec![Rule { clauses: vec![who.into(), what.into()], place: None }],
    })
}

fn flow(n: usize) -> Flow {
    Flow {
        direction: Direction::Inbound,
        peer: PeerAddr("10.1.2.3:999".parse().expect("an address")),
        peer_id: Some(format!("spiffe://{}", caller(n)).parse().expect("an ID")),
        foreign: false,
        other_principals: Vec::new(),
        dst: "10.0.0.1:8080".parse().expect("an address"),
    }
}

/// Nanoseconds of one decision, the clock's own included: the median, and of all but one in a
/// hundred; of both the median of all rounds.
pub(crate) fn decisions(policies: usize, rounds: usize) -> [f64; 2] {
    let policies = policies.min(MOST);
    let all: Vec<_> = (0..policies).map(policy).collect();
    let rules = Rules::compile(all.iter());
    let round = || -> [f64; 2] {
        let mut took: Vec<f64> = (0..FLOWS)
            .map(|n| {
                // Made when its connection comes, and decided on at once.
                let flow = flow(n * 7919 % (policies + policies / 10));
                let request = Request::of(&flow);
                let begin = Instant::now();
                let trace = decide(Protection { rules: Some(&rules), strict: true }, &request);
                black_box(trace.allowed());
                begin.elapsed().as_secs_f64() * 1e9
            })
            .collect();
        took.sort_by(f64::total_cmp);
        [took[took.len() / 2], took[took.len() * 99 / 100]]
    };
    let all: Vec<_> = (0..rounds).map(|_| round()).collect();
    [0, 1].map(|which| median(all.iter().map(|took| took[which])))
}
