use std::collections::BTreeSet;

use super::*;
use crate::mesh::{Balancing, Families, Locality, Membership, MtlsMode, Store, Template};

fn workload(name: &str, change: impl FnOnce(&mut Template, &mut Vec<&str>)) -> Workload {
    let id = format!("spiffe://td/ns/shop/sa/{name}").parse().unwrap();
    let mut template = Template::new("shop".into(), id);
    let member = |hostname: &str, ports: Vec<ServicePort>| Membership {
        namespace: "shop".into(),
        hostname: hostname.into(),
        ports: ports.into(),
    };
    template.services = [member("db.shop", Vec::new())].into();
    let mut addresses = vec!["10.0.0.1", "fd00::1"];
    change(&mut template, &mut addresses);
    Workload {
        uid: name.into(),
        name: name.into(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        node: Some("here".into()),
        healthy: name != "ill",
        template: Arc::new(template),
        local: None,
    }
}

fn at(region: &str, zone: &str) -> impl FnOnce(&mut Template, &mut Vec<&str>) {
    let (region, zone) = (region.into(), zone.into());
    move |template, _| template.locality = Locality { region, zone, subzone: Arc::default() }
}

fn service(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service::new("shop".into(), "db.shop".into());
    service.ports = vec![ServicePort { port: 80, target_port: 8080 }];
    change(&mut service);
    service
}

fn mesh(workloads: Vec<Workload>) -> View {
    let mut store = Store::new("td".parse().unwrap(), MtlsMode::Strict);
    for workload in workloads {
        store.upsert_workload(workload);
    }
    store.view()
}

/// Who is chosen, of 100 random numbers.
fn chosen(mesh: &View, service: &Service, from: &Workload) -> BTreeSet<String> {
    chosen_but(mesh, service, from, &Avoided::default())
}

/// Who is chosen, of 100 random numbers, where some are to be avoided.
fn chosen_but(
    mesh: &View,
    service: &Service,
    from: &Workload,
    avoided: &Avoided,
) -> BTreeSet<String> {
    let called = "10.9.9.9:80".parse().unwrap();
    let ask = |random| Ask { from, called, is_waypoint: false, by_hbone: false, random, avoided };
    let picked = (0..100).filter_map(|n| pick(mesh, service, &ask(n)));
    picked.map(|endpoint| endpoint.workload.name().to_owned()).collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(ToString::to_string).collect()
}

fn nowhere(_: &mut Template, _: &mut Vec<&str>) {}

#[test]
fn an_endpoint_that_is_ill_or_has_no_capacity_is_taken_only_where_the_service_says_so() {
    let idle = workload("idle", |template, _| template.capacity = 0);
    let (mesh, from) = (
        mesh(vec![workload("well", nowhere), workload("ill", nowhere), idle]),
        workload("web", nowhere),
    );
    assert_eq!(chosen(&mesh, &service(|_| {}), &from), names(&["well"]));
    let any =
        service(|s| s.balancing = Some(Balancing { any_health: true, ..Balancing::default() }));
    assert_eq!(chosen(&mesh, &any, &from), names(&["well", "ill"]));
    assert_eq!(chosen(&mesh, &service(|s| s.ports.clear()), &from), names(&[]), "no such port");
}

#[test]
fn endpoints_with_more_of_what_is_preferred_come_first() {
    let near = workload("near", at("eu", "a"));
    let (zone, region) = (workload("zone", at("eu", "b")), workload("region", at("us", "a")));
    let from = workload("web", at("eu", "a"));
    let by = |mode| {
        let preferences = vec![LocalityScope::Region, LocalityScope::Zone];
        service(|s| s.balancing = Some(Balancing { mode, preferences, any_health: false }))
    };
    let all = mesh(vec![near.clone(), zone.clone(), region.clone()]);
    assert_eq!(chosen(&all, &by(BalancingMode::Failover), &from), names(&["near"]));
    let without = mesh(vec![zone.clone(), region.clone()]);
    assert_eq!(chosen(&without, &by(BalancingMode::Failover), &from), names(&["zone"]));
    assert_eq!(chosen(&without, &by(BalancingMode::Strict), &from), names(&[]));
    let far = mesh(vec![region]);
    let last = chosen(&far, &by(BalancingMode::Failover), &from);
    assert_eq!(last, names(&["region"]), "its zone is of another region");
}

#[test]
fn the_own_network_is_preferred_and_the_rest_counts_in_others_too() {
    let far = |name, zone| {
        workload(name, |template, addresses| {
            at("eu", zone)(template, addresses);
            template.network = "far".into();
        })
    };
    let here = workload("here", at("us", "z"));
    let from = workload("web", at("eu", "a"));
    let preferences = vec![LocalityScope::Network, LocalityScope::Region, LocalityScope::Zone];
    let balancing = Balancing { mode: BalancingMode::Failover, preferences, any_health: false };
    let service = service(|s| s.balancing = Some(balancing));
    let all = mesh(vec![far("a", "a"), far("b", "b"), here]);
    assert_eq!(chosen(&all, &service, &from), names(&["here"]));
    let others = mesh(vec![far("a", "a"), far("b", "b")]);
    assert_eq!(chosen(&others, &service, &from), names(&["a"]));
}

#[test]
fn an_endpoint_without_address_is_reached_by_name_or_by_the_gateway_of_another_network() {
    let bare = |name, change: fn(&mut Template)| {
        workload(name, |template, addresses| {
            addresses.clear();
            change(template);
        })
    };
    let gateway = |template: &mut Template| {
        let destination =
            crate::mesh::GatewayDestination::Address(IpAddr::from([1, 2, 3, 4]).into());
        template.network_gateway =
            Some(Arc::new(crate::mesh::Gateway { destination, hbone_port: 15008 }));
    };
    let far = workload("far", |template, addresses| {
        addresses.clear();
        template.network = "far".into();
        gateway(template);
    });
    let named = bare("named", |template| template.hostname = Some("db.test".into()));
    let all = mesh(vec![bare("lost", |_| {}), bare("gateway", gateway), named, far]);
    let from = workload("web", nowhere);
    assert_eq!(chosen(&all, &service(|_| {}), &from), names(&["far", "named"]));
}

#[test]
fn ports_and_addresses_are_the_endpoints_own() {
    let own = |ports: Vec<ServicePort>| {
        move |template: &mut Template, _: &mut Vec<&str>| {
            let mut member = template.services[0].clone();
            member.ports = ports.into();
            template.services = [member].into();
        }
    };
    let port = |target_port| ServicePort { port: 80, target_port };
    let from = workload("web", nowhere);
    let found = |workload: Workload, service: &Service, called: &str| {
        let mesh = mesh(vec![workload]);
        let called = called.parse().unwrap();
        let ask = Ask {
            from: &from,
            called,
            is_waypoint: false,
            by_hbone: false,
            random: 7,
            avoided: &Avoided::default(),
        };
        pick(&mesh, service, &ask).map(|endpoint| (endpoint.ip.unwrap().to_string(), endpoint.port))
    };
    let v4 = |port| Some(("10.0.0.1".to_owned(), port));
    let v6 = |port| Some(("fd00::1".to_owned(), port));
    let plain = service(|_| {});
    assert_eq!(found(workload("db", nowhere), &plain, "10.9.9.9:80"), v4(8080));
    assert_eq!(found(workload("db", own(vec![port(9090)])), &plain, "10.9.9.9:80"), v4(9090));
    assert_eq!(found(workload("db", nowhere), &plain, "[fd99::9]:80"), v6(8080));
    let only_v4 = service(|s| s.families = Families::Ipv4);
    assert_eq!(found(workload("db", nowhere), &only_v4, "[fd99::9]:80"), v4(8080));
    let by_name = service(|s| s.ports = vec![port(0)]);
    assert_eq!(found(workload("db", nowhere), &by_name, "10.9.9.9:80"), None);
    assert_eq!(found(workload("db", own(vec![port(7070)])), &by_name, "10.9.9.9:80"), v4(7070));
}

#[test]
fn capacity_is_a_weight() {
    let large = workload("large", |template, _| template.capacity = 3);
    let mesh = mesh(vec![large, workload("small", nowhere)]);
    let (service, from) = (service(|_| {}), workload("web", nowhere));
    let called = "10.9.9.9:80".parse().unwrap();
    let avoided = Avoided::default();
    let ask = |random| Ask {
        from: &from,
        called,
        is_waypoint: false,
        by_hbone: false,
        random,
        avoided: &avoided,
    };
    let picked = (0..400).filter_map(|n| pick(&mesh, &service, &ask(n)));
    assert_eq!(picked.filter(|endpoint| endpoint.workload.name() == "large").count(), 300);
}

fn at_port(address: &str) -> EndpointAddress {
    EndpointAddress::Ip(address.parse().unwrap())
}

/// Those at 10.0.0.1 to 10.0.0.4, of which the first is left out longest.
fn left_out(how_many: u8) -> Avoided {
    let rank = |n: u8| (at_port(&format!("10.0.0.{n}:8080")), usize::from(n));
    Avoided { ejected: Arc::new((1..=how_many).map(rank).collect()), ..Avoided::default() }
}

fn four() -> View {
    let one = |n: u8| {
        let address = format!("10.0.0.{n}");
        let mut one = workload(&format!("w{n}"), nowhere);
        one.addresses = [address.parse().unwrap()].into();
        one
    };
    mesh((1..=4).map(one).collect())
}

#[test]
fn no_more_than_half_of_the_endpoints_are_left_out_the_worst_first() {
    let (mesh, from) = (four(), workload("web", nowhere));
    let of = |avoided| chosen_but(&mesh, &service(|_| {}), &from, &avoided);
    assert_eq!(of(left_out(0)), names(&["w1", "w2", "w3", "w4"]));
    assert_eq!(of(left_out(1)), names(&["w2", "w3", "w4"]));
    for many in 2..=4 {
        assert_eq!(of(left_out(many)), names(&["w3", "w4"]), "{many}");
    }
}

/// Others take what it would have been given, also where another zone must do.
#[test]
fn an_endpoint_that_is_left_out_is_no_longer_preferred() {
    let mut near = workload("near", at("eu", "a"));
    near.addresses = ["10.0.0.1".parse().unwrap()].into();
    let mut far = workload("far", at("us", "b"));
    far.addresses = ["10.0.0.2".parse().unwrap()].into();
    let mesh = mesh(vec![near, far]);
    let by = |mode| {
        let preferences = vec![LocalityScope::Region];
        service(|s| s.balancing = Some(Balancing { mode, preferences, any_health: false }))
    };
    let from = workload("web", at("eu", "a"));
    let of = |mode| chosen_but(&mesh, &by(mode), &from, &left_out(1));
    assert_eq!(of(BalancingMode::Failover), names(&["far"]));
    assert_eq!(of(BalancingMode::Strict), names(&["near"]), "nobody else may take it");
}

#[test]
fn what_was_tried_is_not_tried_again() {
    let (mesh, from) = (four(), workload("web", nowhere));
    let tried = |all: &[u8]| all.iter().map(|n| at_port(&format!("10.0.0.{n}:8080"))).collect();
    let of = |all: &[u8]| {
        let avoided = Avoided { tried: tried(all), ..left_out(2) };
        chosen_but(&mesh, &service(|_| {}), &from, &avoided)
    };
    assert_eq!(of(&[3]), names(&["w4"]));
    assert_eq!(of(&[3, 4]), names(&["w1", "w2"]), "better than nobody");
    assert_eq!(of(&[1, 2, 3, 4]), names(&[]));
}

/// The first of [`four`] have HBONE, the others do not.
fn with_hbone(how_many: u8) -> View {
    let one = |n: u8| {
        let mut one = workload(&format!("w{n}"), |template, _| {
            template.protocol = if n <= how_many { Protocol::Hbone } else { Protocol::Tcp };
        });
        one.addresses = [format!("10.0.0.{n}").parse().unwrap()].into();
        one
    };
    mesh((1..=4).map(one).collect())
}

#[test]
fn a_connection_that_was_to_go_by_hbone_goes_to_nobody_without() {
    let from = workload("web", nowhere);
    let of = |with: u8, avoided: Avoided| {
        let avoided = Avoided { only_hbone: true, ..avoided };
        chosen_but(&with_hbone(with), &service(|_| {}), &from, &avoided)
    };
    let tried = |n: u8| vec![at_port(&format!("10.0.0.{n}:8080"))];
    assert_eq!(of(2, Avoided { tried: tried(1), ..left_out(0) }), names(&["w2"]));
    assert_eq!(of(2, Avoided { tried: tried(1), ..left_out(2) }), names(&["w2"]));
    assert_eq!(of(1, Avoided { tried: tried(1), ..left_out(0) }), names(&[]));
    let named = workload("named", |template, addresses| {
        addresses.clear();
        template.hostname = Some("db.test".into());
    });
    let avoided = Avoided { only_hbone: true, ..Avoided::default() };
    let by_name = chosen_but(&mesh(vec![named]), &service(|_| {}), &from, &avoided);
    assert_eq!(by_name, names(&[]), "a name is dialled as it is");
}

#[test]
fn who_is_left_out_is_not_replaced_by_those_without_hbone_alone() {
    let from = workload("web", nowhere);
    let of = |with: u8, ejected| {
        chosen_but(&with_hbone(with), &service(|_| {}), &from, &left_out(ejected))
    };
    assert_eq!(of(1, 1), names(&["w1", "w2", "w3", "w4"]));
    assert_eq!(of(2, 2), names(&["w1", "w2", "w3", "w4"]));
    assert_eq!(of(2, 1), names(&["w2", "w3", "w4"]), "one with HBONE remains");
    assert_eq!(of(0, 1), names(&["w2", "w3", "w4"]), "nobody has it");
    // HBONE is spoken to a waypoint whatever it says of itself.
    let (mesh, service, avoided) = (with_hbone(1), service(|_| {}), left_out(1));
    let called = "10.9.9.9:80".parse().unwrap();
    let ask = |random| Ask {
        from: &from,
        called,
        is_waypoint: true,
        by_hbone: true,
        random,
        avoided: &avoided,
    };
    let picked = (0..100).filter_map(|n| pick(&mesh, &service, &ask(n)));
    let picked: BTreeSet<_> = picked.map(|one| one.workload.name().to_owned()).collect();
    assert_eq!(picked, names(&["w2", "w3", "w4"]));
}
