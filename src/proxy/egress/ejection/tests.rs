//! Endpoints over time, without a clock.

use super::*;

fn endpoint(n: usize) -> EndpointAddress {
    EndpointAddress::Name("db.shop".into(), u16::try_from(n).unwrap())
}

fn out(health: &EndpointHealth, now: Instant) -> Vec<EndpointAddress> {
    let mut all: Vec<_> =
        health.ejected(now).iter().map(|(at, rank)| (*rank, at.clone())).collect();
    all.sort();
    all.into_iter().map(|(_, at)| at).collect()
}

#[test]
fn an_endpoint_is_left_out_after_three_failures_and_longer_each_time() {
    let (health, mut now) = (EndpointHealth::default(), Instant::now());
    let failed = |now| health.failed(endpoint(1), now, now).map(|wait| wait.as_secs());
    assert_eq!([failed(now), failed(now)], [None, None]);
    assert_eq!(out(&health, now), []);
    for expected in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(failed(now), Some(expected));
        assert_eq!(failed(now), None, "it is left out already");
        assert_eq!(out(&health, now), [endpoint(1)]);
        now += Duration::from_secs(expected) - Duration::from_millis(1);
        assert_eq!(out(&health, now), [endpoint(1)]);
        now += Duration::from_millis(1);
        assert_eq!(out(&health, now), [], "it is tried again, and once is enough then");
    }
}

/// Many wait for one dial, or have streams in one tunnel that ends.
#[test]
fn what_fails_many_connections_at_once_counts_once() {
    let (health, begun) = (EndpointHealth::default(), Instant::now());
    let after = |ms| begun + Duration::from_millis(ms);
    for waiting in 1..10 {
        assert_eq!(health.failed(endpoint(1), begun, after(waiting)), None);
    }
    assert_eq!(health.failed(endpoint(1), after(10), after(20)), None, "that is the second");
    assert_eq!(health.failed(endpoint(1), after(19), after(21)), None, "so is that");
    assert_eq!(health.failed(endpoint(1), after(20), after(30)), Some(FIRST));
}

#[test]
fn one_success_makes_up_for_all_failures() {
    let (health, now) = (EndpointHealth::default(), Instant::now());
    let failed = || health.failed(endpoint(1), now, now);
    assert!(!health.succeeded(&endpoint(1), now), "nobody had failed");
    assert_eq!([failed(), failed()], [None, None]);
    assert!(!health.succeeded(&endpoint(1), now), "it was not left out");
    assert_eq!([failed(), failed()], [None, None]);
    assert_eq!(failed(), Some(FIRST));
    assert!(health.succeeded(&endpoint(1), now));
    assert_eq!(out(&health, now), []);
    assert_eq!([failed(), failed(), failed()], [None, None, Some(FIRST)], "it begins anew");
}

#[test]
fn what_is_long_ago_counts_for_nothing() {
    let (health, now) = (EndpointHealth::default(), Instant::now());
    for _ in 0..3 {
        health.failed(endpoint(1), now, now);
    }
    let later = now + FORGOTTEN;
    assert_eq!(health.failed(endpoint(1), later, later), None);
}

#[test]
fn the_worst_comes_first() {
    let (health, now) = (EndpointHealth::default(), Instant::now());
    for (n, at) in [(1, now), (2, now + Duration::from_secs(1))] {
        for _ in 0..3 {
            health.failed(endpoint(n), at, at);
        }
    }
    let now = now + Duration::from_secs(2);
    assert_eq!(out(&health, now), [endpoint(2), endpoint(1)]);
    let shown = health.ejected_endpoints(now);
    let shown: Vec<_> = shown.iter().map(|e| (&e.address, e.failures, e.left.as_secs())).collect();
    assert_eq!(shown, [(&endpoint(2), 3, 9), (&endpoint(1), 3, 8)]);
}

#[test]
fn only_so_many_are_kept_in_mind_and_those_that_are_left_out_stay() {
    let (health, now) = (EndpointHealth::default(), Instant::now());
    for _ in 0..3 {
        health.failed(endpoint(0), now, now);
    }
    for n in 1..2 * MOST {
        let now = now + Duration::from_millis(u64::try_from(n).unwrap());
        health.failed(endpoint(n), now, now);
    }
    assert_eq!(health.state().failing.len(), MOST);
    assert_eq!(out(&health, now), [endpoint(0)]);
    assert!(health.state().failing.contains_key(&endpoint(2 * MOST - 1)));
    let full = EndpointHealth::default();
    for n in 0..=MOST {
        for _ in 0..3 {
            full.failed(endpoint(n), now, now);
        }
    }
    assert_eq!(out(&full, now).len(), MOST);
    assert!(!out(&full, now).contains(&endpoint(MOST)));
}
