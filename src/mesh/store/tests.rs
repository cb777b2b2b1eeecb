use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    mesh::{Change, Labels, Protocol, ServicePort},
    policy::{Action, Rule, Scope},
};

const NETWORKS: [&str; 2] = ["", "far"];
const POLICIES: [&str; 3] = ["shop/a", "shop/b", "shop/c"];

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
    let template = Template {
        network: NETWORKS[network].into(),
        namespace: "shop".into(),
        id: format!("spiffe://td/ns/shop/sa/{app}").parse().unwrap(),
        labels: [("app", app.to_string())].into_iter().collect::<Labels>(),
        protocol: Protocol::Hbone,
        policies: policies.iter().map(|n| POLICIES[*n].into()).collect(),
    };
    Workload {
        uid: format!("shop/{uid}").into(),
        name: uid.to_string().into(),
        addresses: addresses.iter().map(|n| ip(*n)).collect(),
        node: (app == 0).then(|| "one".into()),
        template: Arc::new(template),
        local: None,
    }
}

fn service(namespace: u8, host: u8, addresses: &[u8], port: u16) -> Service {
    Service {
        hostname: format!("{host}.test").into(),
        namespace: format!("n{namespace}").into(),
        addresses: addresses.iter().map(|n| ip(*n)).collect(),
        ports: vec![ServicePort { port, target_port: port }],
        workloads: vec!["shop/0".into()],
    }
}

fn policy(name: usize, rules: usize) -> Policy {
    Policy {
        name: POLICIES[name].trim_start_matches("shop/").into(),
        namespace: "shop".into(),
        scope: Scope::Namespace,
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
    vips: BTreeMap<u8, (String, String)>,
    rules: BTreeMap<String, String>,
}

fn name(service: &Service) -> (String, String) {
    (service.namespace.to_string(), service.hostname.to_string())
}

fn picture(view: &View) -> Picture {
    let all = |n: u8| NETWORKS.map(|network| (network, n));
    let owner =
        |(network, n)| Some(((network, n), view.workload_at(network, ip(n))?.uid.to_string()));
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
        vips: (0..5).filter_map(|n| Some((n, name(view.service_by_vip(ip(n))?)))).collect(),
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
    Store::new("td".parse().unwrap(), MtlsMode::Strict)
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
        prop_assert_eq!((store.addresses.len(), store.vips.len()), (0, 0));
        prop_assert_eq!(store.view.compiled.len(), 0);
        prop_assert!(store.view.networks.is_empty() && store.view.vips.is_empty());
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
    assert!(format!("{:?}", early.rules("shop/1")).contains("policy shop/a is not known"));
    store.upsert_policy(policy(0, 1));
    let changed = store.take_changes().rules();
    let view = store.view();
    assert!(view.rules("shop/1").allows());
    assert!(changed.of(view.workload("shop/1").unwrap()));
    assert!(Arc::ptr_eq(&view.rules("shop/1"), &view.rules("shop/1")), "compiled once");
    // Whoever decides on an old view makes no rules for the new one.
    assert!(!early.rules("shop/1").allows());
    store.upsert_policy(policy(1, 1));
    let changed = store.take_changes().rules();
    assert!(!changed.of(view.workload("shop/1").unwrap()), "another policy is not about it");
    let after = store.view();
    assert!(Arc::ptr_eq(&view.rules("shop/1"), &after.rules("shop/1")), "kept");
}
