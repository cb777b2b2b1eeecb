use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    mesh::{Change, Labels, NetworkAddress, ServicePort},
    policy::{Action, Rule, Scope},
};

const NETWORKS: [&str; 2] = ["", "far"];
const POLICIES: [&str; 3] = ["shop/a", "shop/b", "shop/c"];
/// Of workloads without an address.
const HOSTNAME: &str = "lb.test";

fn ip(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

/// What a source may say.
#[derive(Clone, Debug)]
enum Delta {
    Workload {
        uid: u8,
        network: usize,
        addresses: Vec<u8>,
        app: u8,
        policies: Vec<usize>,
    },
    NoWorkload(u8),
    Service {
        namespace: u8,
        host: u8,
        addresses: Vec<u8>,
        port: u16,
    },
    NoService {
        namespace: u8,
        host: u8,
    },
    Policy {
        name: usize,
        rules: usize,
    },
    NoPolicy(usize),
    Mtls(bool),
    /// A view is given out.
    Look,
}

fn delta() -> impl Strategy<Value = Delta> {
    let addresses = || proptest::collection::vec(0_u8..5, 0..3);
    let policies = proptest::collection::vec(0_usize..3, 0..3);
    prop_oneof![
        4 => (0_u8..6, 0_usize..2, addresses(), 0_u8..2, policies).prop_map(
            |(uid, network, addresses, app, policies)| Delta::Workload {
                uid, network, addresses, app, policies,
            }
        ),
        2 => (0_u8..6).prop_map(Delta::NoWorkload),
        2 => (0_u8..2, 0_u8..3, addresses(), 1_u16..3).prop_map(
            |(namespace, host, addresses, port)| Delta::Service { namespace, host, addresses, port }
        ),
        1 => (0_u8..2, 0_u8..3).prop_map(|(namespace, host)| Delta::NoService { namespace, host }),
        2 => (0_usize..3, 0_usize..3).prop_map(|(name, rules)| Delta::Policy { name, rules }),
        1 => (0_usize..3).prop_map(Delta::NoPolicy),
        1 => any::<bool>().prop_map(Delta::Mtls),
        2 => Just(Delta::Look),
    ]
}

fn workload(uid: u8, network: usize, addresses: &[u8], app: u8, policies: &[usize]) -> Workload {
    let behind = |(namespace, host)| Membership {
        namespace: format!("n{namespace}").into(),
        hostname: format!("{host}.test").into(),
        ports: Box::default(),
    };
    let template = Template {
        network: NETWORKS[network].into(),
        labels: [("app", app.to_string())].into_iter().collect::<Labels>(),
        policies: policies.iter().map(|n| POLICIES[*n].into()).collect(),
        services: policies.iter().map(|n| behind((app, *n))).collect::<Vec<_>>().into(),
        hostname: addresses.is_empty().then(|| HOSTNAME.into()),
        ..Template::new(
            if app == 0 { "shop" } else { "bank" }.into(),
            format!("spiffe://td/ns/shop/sa/{app}").parse().unwrap(),
        )
    };
    Workload {
        uid: format!("shop/{uid}").into(),
        name: uid.to_string().into(),
        addresses: addresses.iter().map(|n| ip(*n)).collect(),
        node: (app == 0).then(|| "one".into()),
        healthy: true,
        template: Arc::new(template),
        local: None,
    }
}

fn service(namespace: u8, host: u8, addresses: &[u8], port: u16) -> Service {
    let far = |n: &u8| NetworkAddress { network: NETWORKS[1].into(), ip: ip(*n) };
    let near = |n: &u8| NetworkAddress::from(ip(*n));
    let around = |n: &u8| (NETWORKS[0].into(), format!("10.0.0.{n}/31").parse().unwrap());
    Service {
        vips: match port {
            1 => addresses.iter().map(near).collect(),
            _ => addresses.iter().map(far).collect(),
        },
        cidr_vips: addresses.iter().filter(|_| host == 0).map(around).collect(),
        ports: vec![ServicePort { port, target_port: port }],
        ..Service::new(format!("n{namespace}").into(), format!("{host}.test").into())
    }
}

fn policy(name: usize, rules: usize) -> Policy {
    Policy {
        name: POLICIES[name].trim_start_matches("shop/").into(),
        namespace: "shop".into(),
        scope: match rules {
            0 => Scope::Global,
            1 => Scope::Namespace,
            _ => Scope::Selector { labels: BTreeMap::new(), everywhere: false },
        },
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule::default(); rules],
    }
}

fn apply(store: &mut Store, delta: &Delta) {
    match delta {
        Delta::Workload { uid, network, addresses, app, policies } => {
            store.upsert_workload(workload(*uid, *network, addresses, *app, policies));
        }
        Delta::NoWorkload(uid) => {
            store.remove_workload(&format!("shop/{uid}"));
        }
        Delta::Service { namespace, host, addresses, port } => {
            store.upsert_service(service(*namespace, *host, addresses, *port));
        }
        Delta::NoService { namespace, host } => {
            store.remove_service(&format!("n{namespace}"), &format!("{host}.test"));
        }
        Delta::Policy { name, rules } => {
            store.upsert_policy(policy(*name, *rules));
        }
        Delta::NoPolicy(name) => {
            store.remove_policy(POLICIES[*name]);
        }
        Delta::Mtls(strict) => store.set_mtls(match strict {
            true => MtlsMode::Strict,
            false => MtlsMode::Permissive,
        }),
        Delta::Look => {}
    }
}

/// All that was said and still stands, by kind and name.
fn final_set(deltas: &[Delta]) -> BTreeMap<(u8, u8, u8), Delta> {
    let mut set = BTreeMap::new();
    for delta in deltas {
        let (key, there) = match delta {
            Delta::Workload { uid, .. } => ((0, *uid, 0), true),
            Delta::NoWorkload(uid) => ((0, *uid, 0), false),
            Delta::Service { namespace, host, .. } => ((1, *namespace, *host), true),
            Delta::NoService { namespace, host } => ((1, *namespace, *host), false),
            Delta::Policy { name, .. } => ((2, u8::try_from(*name).unwrap(), 0), true),
            Delta::NoPolicy(name) => ((2, u8::try_from(*name).unwrap(), 0), false),
            Delta::Mtls(_) => ((3, 0, 0), true),
            Delta::Look => continue,
        };
        match there {
            true => drop(set.insert(key, delta.clone())),
            false => drop(set.remove(&key)),
        }
    }
    set
}

/// Everything that a view can be asked.
#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    workloads: BTreeMap<String, Arc<Workload>>,
    services: BTreeMap<(String, String), Arc<Service>>,
    policies: BTreeMap<String, Arc<Policy>>,
    mtls: MtlsMode,
    addresses: BTreeMap<(&'static str, u8), String>,
    vips: BTreeMap<(&'static str, u8), (String, String)>,
    endpoints: BTreeMap<(String, String), BTreeSet<String>>,
    local: BTreeMap<String, String>,
    named: BTreeMap<&'static str, String>,
    rules: BTreeMap<String, String>,
}

fn name(service: &Service) -> (String, String) {
    (service.namespace.to_string(), service.hostname.to_string())
}

fn picture(view: &View) -> Picture {
    let all = |n: u8| NETWORKS.map(|network| (network, n));
    let owner =
        |(network, n)| Some(((network, n), view.workload_at(network, ip(n))?.uid.to_string()));
    let service_at =
        |(network, n)| Some(((network, n), name(view.service_at(network, ip(n), "n1")?)));
    let endpoints = |s: &Arc<Service>| view.endpoints(s).map(|(w, _)| w.uid.to_string()).collect();
    let local = |n: u8| {
        let pod = format!("shop/{n}");
        let workload = view.local(&pod)?.uid.to_string();
        Some((pod, workload))
    };
    let named = |namespace| {
        let workload = view.workload_named(namespace, HOSTNAME)?;
        Some((namespace, workload.uid.to_string()))
    };
    let rules = |w: &Arc<Workload>| (w.uid.to_string(), format!("{:?}", view.rules(&w.uid)));
    for service in view.services() {
        assert_eq!(view.service(&service.namespace, &service.hostname), Some(service));
    }
    Picture {
        workloads: view.workloads().map(|w| (w.uid.to_string(), Arc::clone(w))).collect(),
        services: view.services().map(|s| (name(s), Arc::clone(s))).collect(),
        policies: view.policies().map(|p| (p.key(), Arc::clone(p))).collect(),
        mtls: view.mtls(),
        addresses: (0..5).flat_map(all).filter_map(owner).collect(),
        vips: (0..5).flat_map(all).filter_map(service_at).collect(),
        endpoints: view.services().map(|s| (name(s), endpoints(s))).collect(),
        local: (0..6).filter_map(local).collect(),
        named: ["shop", "bank"].into_iter().filter_map(named).collect(),
        rules: view.workloads().map(rules).collect(),
    }
}

fn follow<T>(there: &mut BTreeMap<String, Arc<T>>, change: &Change<T>, key: String) {
    let before = match change.after() {
        Some(after) => there.insert(key, Arc::clone(after)),
        None => there.remove(&key),
    };
    assert_eq!(before.is_some(), change.before().is_some());
}

/// What of a picture can be told by changes: the rest follows from it.
fn follow_all(old: &Picture, changes: &Changes, mtls: MtlsMode) -> Picture {
    let mut new = old.clone();
    for change in &changes.workloads {
        let of = change.after().or(change.before()).unwrap();
        follow(&mut new.workloads, change, of.uid.to_string());
    }
    for change in &changes.policies {
        let of = change.after().or(change.before()).unwrap();
        follow(&mut new.policies, change, of.key());
    }
    for change in &changes.services {
        let key = name(change.after().or(change.before()).unwrap());
        match change.after() {
            Some(after) => drop(new.services.insert(key, Arc::clone(after))),
            None => drop(new.services.remove(&key)),
        }
    }
    assert_eq!(changes.mtls, old.mtls != mtls);
    new.mtls = mtls;
    new
}

fn empty() -> Store {
    let store = Store::new("td".parse().unwrap(), MtlsMode::Strict);
    store.of_node(Some("one".into()), Arc::default())
}

proptest! {
    #[test]
    fn a_store_says_what_one_made_of_the_final_set_says(
        deltas in proptest::collection::vec(delta(), 0..80),
    ) {
        let mut store = empty();
        let mut looked = vec![(store.view(), picture(&store.view()))];
        for delta in deltas.iter().chain([&Delta::Look]) {
            apply(&mut store, delta);
            if !matches!(delta, Delta::Look) {
                continue;
            }
            let (changes, view) = (store.take_changes(), store.view());
            let now = picture(&view);
            let (_, old) = looked.last().unwrap();
            let followed = follow_all(old, &changes, view.mtls());
            prop_assert_eq!(&followed.workloads, &now.workloads);
            prop_assert_eq!(&followed.services, &now.services);
            prop_assert_eq!(&followed.policies, &now.policies);
            // Whoever's rules say something else now is told of, and no one twice.
            let told = changes.rules();
            for (uid, rules) in &now.rules {
                let other = old.rules.get(uid) != Some(rules) || old.mtls != now.mtls;
                prop_assert!(!other || told.of(&now.workloads[uid]), "{}", uid);
            }
            prop_assert_eq!(changes.is_empty(), followed == Picture { mtls: old.mtls, ..old.clone() }
                && old.mtls == now.mtls);
            looked.push((view, now));
        }
        let mut anew = empty();
        final_set(&deltas).values().rev().for_each(|delta| apply(&mut anew, delta));
        prop_assert_eq!(picture(&store.view()), picture(&anew.view()));
        prop_assert_eq!(store.texts.len(), anew.texts.len());
        prop_assert_eq!(store.templates.len(), anew.templates.len());
        for uid in 0..6 {
            store.remove_workload(&format!("shop/{uid}"));
        }
        for (namespace, host) in (0..2).flat_map(|n| (0..3).map(move |h| (n, h))) {
            store.remove_service(&format!("n{namespace}"), &format!("{host}.test"));
        }
        for key in POLICIES { store.remove_policy(key); }
        let left = (store.texts.len(), store.templates.len(), store.policy_sets.len());
        prop_assert_eq!(left, (0, 0, 0), "what nobody uses is forgotten");
        prop_assert_eq!(store.addresses.len(), 0);
        prop_assert_eq!(store.view.compiled.len(), 0);
        prop_assert!(store.view.networks.is_empty() && store.view.endpoints.is_empty());
        prop_assert!(store.view.local.is_empty() && store.view.scopes.is_empty());
        prop_assert!(store.view.by_hostname.is_empty());
        for (view, then) in &looked {
            prop_assert_eq!(&picture(view), then, "a view that is out stays as it was");
        }
    }
}

#[test]
fn an_address_goes_to_the_next_who_claims_it_when_its_owner_goes() {
    let mut store = empty();
    for uid in [2, 1, 3] {
        assert!(store.upsert_workload(workload(uid, 0, &[7], 0, &[])));
    }
    let owner = |store: &Store| store.now().workload_by_ip(ip(7)).map(|w| w.uid.to_string());
    for (gone, next) in [("shop/1", "shop/2"), ("shop/3", "shop/2")] {
        store.remove_workload(gone);
        assert_eq!(owner(&store).as_deref(), Some(next), "after {gone}");
    }
    let mapped = "::ffff:10.0.0.7".parse().unwrap();
    assert!(store.now().workload_by_ip(mapped).is_some(), "one address has one spelling");
    store.upsert_workload(workload(2, 1, &[7], 0, &[]));
    assert_eq!(owner(&store), None, "it means another in another network");
}

#[test]
fn what_changes_nothing_is_no_change() {
    let mut store = empty();
    assert!(store.upsert_workload(workload(1, 0, &[1], 0, &[0])));
    assert!(!store.upsert_workload(workload(1, 0, &[1], 0, &[0])));
    store.take_changes();
    store.upsert_workload(workload(1, 0, &[2], 0, &[0]));
    store.upsert_workload(workload(1, 0, &[1], 0, &[0]));
    store.upsert_policy(policy(0, 1));
    store.remove_policy("shop/a");
    assert!(store.take_changes().is_empty(), "it is as it was");
}

#[test]
fn nobody_may_call_a_workload_while_a_policy_that_selects_it_is_not_known() {
    let mut store = empty();
    store.upsert_workload(workload(1, 0, &[1], 0, &[0]));
    store.upsert_workload(workload(2, 0, &[2], 0, &[]));
    let early = store.view();
    assert!(!early.rules("shop/1").allows());
    assert!(format!("{:?}", early.rules("shop/1")).contains("policy shop/a has not been received"));
    store.upsert_policy(policy(0, 2));
    let changed = store.take_changes().rules();
    let view = store.view();
    assert!(view.rules("shop/1").allows());
    assert!(changed.of(view.workload("shop/1").unwrap()));
    assert!(Arc::ptr_eq(&view.rules("shop/1"), &view.rules("shop/1")), "compiled once");
    // Whoever decides on an old view makes no rules for the new one.
    assert!(!early.rules("shop/1").allows());
    store.upsert_policy(policy(1, 2));
    let changed = store.take_changes().rules();
    assert!(!changed.of(view.workload("shop/1").unwrap()), "another policy is not about it");
    let after = store.view();
    assert!(Arc::ptr_eq(&view.rules("shop/1"), &after.rules("shop/1")), "kept");
}

#[test]
fn a_policy_of_a_namespace_or_of_the_mesh_is_about_workloads_that_do_not_name_it() {
    let mut store = empty();
    store.upsert_workload(workload(1, 0, &[1], 0, &[]));
    store.upsert_workload(workload(2, 0, &[2], 1, &[]));
    let count = |store: &Store| ["shop/1", "shop/2"].map(|uid| store.now().rules(uid).len());
    for (rules, after) in [(1, [1, 0]), (0, [1, 1]), (2, [0, 0])] {
        let before = count(&store);
        store.upsert_policy(policy(0, rules));
        assert_eq!(count(&store), after, "{rules}");
        let changed = store.take_changes().rules();
        for (n, uid) in ["shop/1", "shop/2"].into_iter().enumerate() {
            let told = changed.of(store.now().workload(uid).unwrap());
            assert!(told || before[n] == after[n], "{uid} is not told of {rules}");
        }
    }
    assert!(!store.take_changes().rules().of(store.now().workload("shop/2").unwrap()));
}

#[test]
fn a_caller_means_the_service_of_its_own_namespace_then_the_canonical_one() {
    let mut store = empty();
    for (namespace, canonical, private) in [(0, false, false), (1, true, false), (2, false, true)] {
        let mut service = service(namespace, 1, &[7], 1);
        (service.is_canonical, service.is_private) = (canonical, private);
        store.upsert_service(service);
    }
    let meant = |by: &str| {
        let found = store.now().service_by_vip(ip(7), by);
        let named = store.now().service_by_name("1.test", by);
        assert_eq!(found, named);
        found.map(|service| service.namespace.to_string())
    };
    assert_eq!(["n0", "n1", "n2", "n9"].map(|by| meant(by).unwrap()), ["n0", "n1", "n2", "n1"]);
    store.remove_service("n1", "1.test");
    let found = store.now().service_by_vip(ip(7), "n9").map(|s| s.namespace.to_string());
    assert_eq!(found.as_deref(), Some("n0"), "a private one is another namespace's");
}

#[test]
fn an_address_in_several_virtual_networks_means_the_smallest_but_for_the_own_namespace() {
    let mut store = empty();
    for (namespace, host, net) in
        [(0, 0, "10.0.0.0/8"), (1, 1, "10.1.0.0/16"), (2, 2, "10.1.2.0/24")]
    {
        let mut service = service(namespace, host, &[], 1);
        service.cidr_vips = vec![(NETWORKS[0].into(), net.parse().unwrap())];
        store.upsert_service(service);
    }
    let at = |store: &Store, ip: &str, by: &str| {
        let found = store.now().service_by_vip(ip.parse().unwrap(), by);
        found.map(|service| service.namespace.to_string())
    };
    for (ip, by, meant) in [
        ("10.1.2.3", "n9", Some("n2")),
        ("10.1.3.3", "n9", Some("n1")),
        ("::ffff:10.9.9.9", "n9", Some("n0")),
        ("10.1.2.3", "n0", Some("n0")),
        ("11.1.2.3", "n0", None),
    ] {
        assert_eq!(at(&store, ip, by).as_deref(), meant, "{ip} for {by}");
    }
    store.remove_service("n2", "2.test");
    assert_eq!(at(&store, "10.1.2.3", "n9").as_deref(), Some("n1"));
}

#[test]
fn a_service_has_hundreds_of_endpoints_and_loses_them_again() {
    let mut store = empty();
    let service = service(0, 0, &[], 1);
    store.upsert_service(service.clone());
    let count = |store: &Store| store.now().endpoints(&service).count();
    let early = store.view();
    (0..200).for_each(|uid| assert!(store.upsert_workload(workload(uid, 0, &[], 0, &[0]))));
    assert_eq!((count(&store), early.endpoints(&service).count()), (200, 0));
    (0..150).for_each(|uid| assert!(store.remove_workload(&format!("shop/{uid}"))));
    assert_eq!(count(&store), 50);
    (150..200).for_each(|uid| assert!(store.upsert_workload(workload(uid, 0, &[], 0, &[1]))));
    assert_eq!(count(&store), 0, "behind another one now");
}
