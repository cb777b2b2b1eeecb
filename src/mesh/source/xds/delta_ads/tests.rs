//! Streams as a control plane has them, response by response.

use bytes::Bytes;

use super::*;
use crate::rpc::discovery::{Any, Resource};

fn node() -> NodeIdentity {
    let id = "ztunnel~10.244.1.2~adit-n1.istio-system~istio-system.svc.cluster.local";
    NodeIdentity { id: id.into(), metadata: [].into() }
}

/// A node with its stream, and what is in force there by what it was told.
struct World {
    ads: DeltaAds,
    nonces: usize,
    /// What the next deltas' owner will not take.
    bad: Vec<&'static str>,
}

/// What a response led to.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    upserted: Vec<String>,
    removed: Vec<String>,
    nack: String,
    answered: Vec<(String, Answer)>,
}

impl World {
    fn new(on_demand: bool) -> Self {
        Self { ads: DeltaAds::new(&node(), on_demand), nonces: 0, bad: Vec::new() }
    }

    fn connected() -> Self {
        let mut world = Self::new(false);
        world.ads.connected();
        world
    }

    /// A response with `name=version` resources, and `-name` for what is removed.
    fn push(&mut self, type_url: TypeUrl, entries: &[&str]) -> Seen {
        let mut response = DeltaDiscoveryResponse {
            type_url: type_url.as_str().into(),
            nonce: format!("nonce {}", self.nonces),
            ..Default::default()
        };
        for entry in entries {
            match (entry.strip_prefix('-'), entry.split_once('=')) {
                (Some(name), _) => response.removed_resources.push(name.into()),
                (None, Some((name, version))) => {
                    response.resources.push(resource(type_url, name, version));
                }
                (None, None) => response.resources.push(resource(type_url, entry, "")),
            }
        }
        self.receive(response)
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) -> Seen {
        let nonce = response.nonce.clone();
        self.nonces += 1;
        let Received::Delta(delta, pending) = self.ads.received(response).unwrap() else {
            panic!("a type that is known");
        };
        let bad = delta.upserted.iter().filter(|u| self.bad.contains(&&*u.name));
        let faults = bad.map(|u| RejectedResource::new(Arc::clone(&u.name), "is bad")).collect();
        let applied = self.ads.applied(pending, faults, Instant::now());
        assert_eq!(applied.request.response_nonce, nonce);
        assert_eq!(applied.request.node, None, "in first requests only");
        let nack = applied.request.error_detail;
        assert!(nack.as_ref().is_none_or(|nack| nack.code == 3));
        let mut removed: Vec<String> = delta.removed.iter().map(|name| name.to_string()).collect();
        removed.sort_unstable();
        Seen {
            upserted: delta.upserted.iter().map(|u| u.name.to_string()).collect(),
            removed,
            nack: nack.map(|nack| nack.message).unwrap_or_default(),
            answered: applied.answered.into_iter().map(|(k, a)| (k.to_string(), a)).collect(),
        }
    }

    fn reconnect(&mut self) -> Opening {
        self.ads.disconnected(false);
        self.ads.connected()
    }
}

/// Its name up to a `|` is the name, the rest are aliases.
fn resource(type_url: TypeUrl, name: &str, version: &str) -> Resource {
    let mut names = name.split('|').map(str::to_owned);
    Resource {
        name: names.next().unwrap(),
        version: version.into(),
        resource: Some(Any {
            type_url: type_url.as_str().into(),
            value: Bytes::from(version.to_owned()),
        }),
        aliases: names.collect(),
    }
}

fn upserted(names: &[&str]) -> Seen {
    Seen { upserted: names.iter().map(|n| n.to_string()).collect(), ..Seen::default() }
}

fn removed(names: &[&str]) -> Seen {
    Seen { removed: names.iter().map(|n| n.to_string()).collect(), ..Seen::default() }
}

use TypeUrl::{Address, Authorization};

#[test]
fn a_stream_asks_for_addresses_and_then_for_policies_and_says_who_asks() {
    let opening = World::new(false).ads.connected();
    let asked: Vec<&str> = opening.requests.iter().map(|r| &*r.type_url).collect();
    assert_eq!(asked, [Address.as_str(), Authorization.as_str()]);
    for request in &opening.requests {
        let node = request.node.as_ref().unwrap();
        assert_eq!(
            node.id,
            "ztunnel~10.244.1.2~adit-n1.istio-system~istio-system.svc.cluster.local"
        );
        assert!(request.resource_names_subscribe.is_empty(), "all of it");
        assert!(request.initial_resource_versions.is_empty() && request.response_nonce.is_empty());
    }
}

#[test]
fn only_what_differs_is_a_change() {
    let mut world = World::connected();
    assert_eq!(world.push(Address, &["a=1", "b=1"]), upserted(&["a", "b"]));
    assert_eq!(world.push(Address, &["a=1", "b=2"]), upserted(&["b"]));
    assert_eq!(world.push(Address, &["-a", "-never/sent"]), removed(&["a"]));
    assert_eq!(world.push(Address, &["a=1"]), upserted(&["a"]), "it had gone");
    let twice = world.push(Address, &["b=3", "b=2", "c=1", "-c"]);
    assert_eq!(twice.upserted, ["b", "c"], "the last b counts, and c comes and goes");
    assert_eq!(twice.removed, ["c"]);
    assert_eq!(world.ads.status(Address).resources, 2);
}

#[test]
fn a_new_stream_tells_what_is_held_and_hears_only_of_the_rest() {
    let mut world = World::connected();
    world.push(Address, &["a=1", "b=2352f326e9a03244"]);
    world.push(Authorization, &["ns/p"]);
    let opening = world.reconnect();
    let [address, authorization] = &opening.requests[..] else { panic!("{opening:?}") };
    let mut versions: Vec<_> = address.initial_resource_versions.clone().into_iter().collect();
    versions.sort_unstable();
    let as_sent = [("a", "1"), ("b", "2352f326e9a03244")];
    assert_eq!(versions, as_sent.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert!(address.node.is_some() && authorization.node.is_some());
    assert!(authorization.initial_resource_versions.is_empty(), "they have none");
    assert_eq!(world.push(Address, &["-b"]), removed(&["b"]), "a is not named and stays");
}

#[test]
fn policies_come_whole_and_what_is_not_among_them_is_gone() {
    let mut world = World::connected();
    world.push(Authorization, &["ns/kept", "ns/gone", "ns/broken"]);
    world.reconnect();
    assert_eq!(world.ads.status(Authorization).resources, 3, "until it has come");
    world.bad = vec!["ns/broken"];
    let mut whole = world.push(Authorization, &["ns/kept", "ns/broken=changed", "ns/new"]);
    assert_eq!(std::mem::take(&mut whole.nack), "ns/broken: is bad");
    assert_eq!(whole.removed, ["ns/gone"], "what is broken is still there");
    assert_eq!(whole.upserted, ["ns/broken", "ns/new"], "ns/kept says what it said");
    assert_eq!(world.push(Authorization, &["ns/more"]), upserted(&["ns/more"]), "no longer whole");
}

#[test]
fn one_bad_resource_is_refused_alone_and_its_last_good_version_stays() {
    let mut world = World::connected();
    world.push(Address, &["a=1", "b=1"]);
    world.bad = vec!["a", "c"];
    let seen = world.push(Address, &["a=2", "b=2", "c=1"]);
    assert_eq!(seen.nack, "a: is bad; c: is bad");
    let status = world.ads.status(Address);
    assert_eq!(status.rejected.keys().map(|n| &**n).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(status.resources, 2);
    let versions = world.reconnect().requests[0].initial_resource_versions.clone();
    assert_eq!(versions.get("a").unwrap(), "1", "so that 2 is sent again, or its end told");
    assert_eq!((&*versions["b"], &*versions["c"]), ("2", ""), "and that of what was never taken");
    world.bad.clear();
    assert_eq!(world.push(Address, &["a=2", "c=1"]), upserted(&["a", "c"]));
    assert!(world.ads.status(Address).rejected.is_empty());
}

#[test]
fn what_nobody_could_use_is_refused_before_anybody_is_asked() {
    let mut world = World::connected();
    let good = resource(Address, "good", "1");
    let mut other_type = resource(Authorization, "other", "1");
    other_type.version = String::new();
    let no_content = Resource { name: "empty".into(), ..Resource::default() };
    let long_name = resource(Address, &"n".repeat(MAX_NAME + 1), "1");
    let long_version = resource(Address, "long", &"v".repeat(300));
    let no_name = resource(Address, "", "1");
    let seen = world.receive(DeltaDiscoveryResponse {
        type_url: Address.as_str().into(),
        nonce: "n".into(),
        resources: vec![other_type, no_content, long_name, long_version, no_name, good],
        ..Default::default()
    });
    assert_eq!(seen.upserted, ["good"]);
    for part in [
        "other: its content is of type",
        "empty: has no content",
        "longer than 1024 bytes",
        "long: its version is longer than 256 bytes",
        ": has no name",
    ] {
        assert!(seen.nack.contains(part), "{part}: {}", seen.nack);
    }
    assert!(seen.nack.len() < 2000);
    let long = DeltaDiscoveryResponse { nonce: "n".repeat(5000), ..Default::default() };
    assert_eq!(world.ads.received(long).unwrap_err(), LongNonce(5000));
}

#[test]
fn what_has_no_shape_is_handed_over_with_what_came_of_it_and_goes_by_its_name() {
    let mut world = World::connected();
    let other_type = resource(Address, "ns/other", "1");
    let long_version = resource(Authorization, "ns/long", &"v".repeat(300));
    let no_content = Resource { name: "ns/empty".into(), ..Resource::default() };
    let long_name = resource(Authorization, &"n".repeat(MAX_NAME + 1), "1");
    let response = DeltaDiscoveryResponse {
        type_url: Authorization.as_str().into(),
        resources: vec![other_type, long_version, no_content, long_name],
        ..Default::default()
    };
    let Ok(Received::Delta(delta, pending)) = world.ads.received(response) else {
        panic!("a type that is known");
    };
    assert!(delta.upserted.is_empty() && !delta.is_empty());
    let refused: Vec<_> = delta.refused.iter().map(|r| (&*r.name, r.value.len())).collect();
    let short = format!("{}…", "n".repeat(300));
    let all = [("ns/other", 0), ("ns/long", 300), ("ns/empty", 0), (&*short, 1)];
    assert_eq!(refused, all);
    assert_eq!(world.ads.applied(pending, Vec::new(), Instant::now()).faults.len(), 4);
    assert_eq!(world.ads.status(Authorization).rejected.len(), 4);
    let removed = [format!("-{}", "n".repeat(MAX_NAME + 1)), "-ns/empty".to_owned()];
    let seen = world.push(Authorization, &removed.each_ref().map(|name| &**name));
    assert_eq!(seen.removed, [short, "ns/empty".to_owned()]);
    assert_eq!(world.ads.status(Authorization).rejected.len(), 2);
    // The next stream tells all that there is.
    world.reconnect();
    let mut left = world.push(Authorization, &[]).removed;
    left.sort();
    assert_eq!(left, ["ns/long", "ns/other"]);
}

#[test]
fn what_is_not_known_is_acknowledged() {
    let mut world = World::connected();
    let other = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        nonce: "7".into(),
        resources: vec![Resource::default()],
        ..Default::default()
    };
    let Ok(Received::Unknown(ack)) = world.ads.received(other) else { panic!() };
    assert_eq!((&*ack.response_nonce, ack.error_detail), ("7", None));
    assert!(ack.type_url.ends_with("Cluster"));
    assert!(!world.ads.is_answered());
    world.push(Address, &[]);
    assert!(!world.ads.is_answered(), "policies have not come");
    world.push(Authorization, &[]);
    assert!(world.ads.is_answered());
    world.reconnect();
    assert!(!world.ads.is_answered(), "a new stream has to answer too");
    assert!(world.ads.status(Authorization).applied.is_some(), "what is in force stays");
}

#[test]
fn a_list_that_is_too_long_is_left_out_and_everything_comes_again() {
    let mut world = World::connected();
    let names: Vec<String> =
        (0..60_000).map(|n| format!("Kubernetes//Pod/a-namespace/{n:040}=1")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    world.push(Address, &all);
    let opening = world.reconnect();
    assert!(opening.requests[0].initial_resource_versions.is_empty());
    assert!(matches!(
        opening.left_out,
        Some(LeftOut::TooLong { resources: 60_000, bytes: 4_000_000.. })
    ));
    let seen = world.push(Address, &all[1..]);
    assert_eq!((seen.upserted.len(), seen.removed.len()), (0, 1), "what is not there is gone");
}

#[test]
fn a_list_that_was_refused_is_left_out_once() {
    let mut world = World::connected();
    world.push(Address, &["a=1"]);
    world.ads.disconnected(true);
    let opening = world.ads.connected();
    assert_eq!(opening.left_out, Some(LeftOut::Refused));
    assert!(opening.requests[0].initial_resource_versions.is_empty());
    assert_eq!(world.push(Address, &["b=1"]).removed, ["a"]);
    assert_eq!(world.reconnect().requests[0].initial_resource_versions.len(), 1);
}

#[test]
fn a_sender_without_versions_sends_all_of_it_again() {
    let mut world = World::connected();
    world.push(Address, &["pod-a", "pod-b"]);
    let opening = world.reconnect();
    assert!(opening.requests[0].initial_resource_versions.is_empty());
    assert_eq!(opening.left_out, None, "there was nothing to tell");
    assert_eq!(world.push(Address, &["pod-b"]), removed(&["pod-a"]));
}

fn key(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn on_demand_a_stream_subscribes_to_nothing() {
    let opening = World::new(true).ads.connected();
    let star = ["*".to_owned()];
    assert_eq!(opening.requests[0].resource_names_subscribe, star);
    assert_eq!(opening.requests[0].resource_names_unsubscribe, star);
    assert!(opening.requests[1].resource_names_subscribe.is_empty(), "policies are not on demand");
}

#[test]
fn a_key_is_asked_for_once_and_an_alias_answers_it() {
    let mut world = World::new(true);
    world.ads.connected();
    let ip = key("/10.96.220.174");
    let sent = world.ads.demand(&ip).unwrap().unwrap();
    assert_eq!(sent.resource_names_subscribe, ["/10.96.220.174"]);
    assert!(sent.node.is_none() && sent.response_nonce.is_empty());
    assert_eq!(world.ads.demand(&ip).unwrap(), None, "many wait, one asks");
    assert!(world.push(Address, &["Kubernetes//Pod/ns/other|/10.0.0.1=1"]).answered.is_empty());
    let seen = world.push(Address, &["ns/echo|/10.96.220.174=1"]);
    assert_eq!(seen.answered, [("/10.96.220.174".to_owned(), Answer::Found)]);
    world.ads.demand(&key("ns/echo")).unwrap();
    let seen = world.push(Address, &["ns/echo=1"]);
    assert_eq!(seen.answered, [("ns/echo".to_owned(), Answer::Found)], "also if it is no change");
}

#[test]
fn a_key_that_names_nothing_is_answered_and_can_be_asked_for_again() {
    let mut world = World::new(true);
    world.ads.connected();
    let ip = key("/10.200.0.1");
    world.ads.demand(&ip).unwrap();
    let seen = world.push(Address, &["-/10.200.0.1"]);
    assert_eq!(seen.answered, [("/10.200.0.1".to_owned(), Answer::Absent)]);
    let again = world.ads.demand(&ip).unwrap().unwrap();
    // istiod answers only who subscribes to something new.
    assert_eq!(again.resource_names_subscribe, ["/10.200.0.1", "-/again-1"]);
    assert!(again.resource_names_unsubscribe.is_empty());
    world.bad = vec!["uid"];
    let seen = world.push(Address, &["uid|/10.200.0.1=1", "-/again-1"]);
    assert_eq!(seen.answered, [("/10.200.0.1".to_owned(), Answer::Rejected)]);
    let third = world.ads.demand(&ip).unwrap().unwrap();
    assert_eq!(third.resource_names_subscribe, ["/10.200.0.1", "-/again-2"]);
    assert_eq!(third.resource_names_unsubscribe, ["-/again-1"], "they do not pile up");
}

#[test]
fn keys_that_wait_are_asked_for_again_on_a_new_stream() {
    let mut world = World::new(true);
    world.ads.demand(&key("/10.0.0.2")).unwrap();
    world.ads.demand(&key("/10.0.0.1")).unwrap();
    world.ads.demand(&key("/10.0.0.3")).unwrap();
    world.ads.forget("/10.0.0.3");
    let opening = world.ads.connected();
    assert_eq!(opening.requests[2].resource_names_subscribe, ["/10.0.0.1", "/10.0.0.2"]);
    assert_eq!(opening.requests.len(), 3);
}

#[test]
fn how_many_may_wait_is_bounded() {
    let mut world = World::new(true);
    world.ads.connected();
    for n in 0..super::super::demands::MAX_PENDING {
        world.ads.demand(&key(&format!("/{n}"))).unwrap();
    }
    assert_eq!(world.ads.demand(&key("/one-more")).unwrap_err(), TooMuch);
    assert_eq!(world.ads.demand(&key("/0")).unwrap(), None, "who waits already is in");
    assert_eq!(world.ads.demand(&key(&"k".repeat(2000))).unwrap_err(), TooMuch);
}
