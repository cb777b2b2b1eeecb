//! Where connections go, on meshes that were never told to anybody.

use std::net::IpAddr;

use super::*;
use crate::mesh::{
    GatewayDestination, Membership, MtlsMode, NetworkAddress, ServicePort, Store, Template,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn workload(name: &str, address: &str, change: impl FnOnce(&mut Template)) -> Workload {
    let id = format!("spiffe://td/ns/shop/sa/{name}").parse().unwrap();
    let mut template = Template::new("shop".into(), id);
    change(&mut template);
    Workload {
        uid: name.into(),
        name: name.into(),
        addresses: address.split_whitespace().map(ip).collect(),
        node: None,
        healthy: true,
        template: Arc::new(template),
        local: None,
    }
}

fn behind(hostname: &str) -> Membership {
    let ports = Box::default();
    Membership { namespace: "shop".into(), hostname: hostname.into(), ports }
}

fn service(hostname: &str, vip: &str, change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service::new("shop".into(), hostname.into());
    service.vips = vec![ip(vip).into()];
    service.ports = vec![ServicePort { port: 80, target_port: 8080 }];
    change(&mut service);
    service
}

fn by_name(hostname: &str) -> Option<Arc<Gateway>> {
    let (namespace, hostname) = ("shop".into(), hostname.into());
    let destination = GatewayDestination::Hostname { namespace, hostname };
    Some(Arc::new(Gateway { destination, hbone_port: 15008 }))
}

fn by_address(network: &str, address: &str) -> Option<Arc<Gateway>> {
    let address = NetworkAddress { network: network.into(), ip: ip(address) };
    let destination = GatewayDestination::Address(address);
    Some(Arc::new(Gateway { destination, hbone_port: 15008 }))
}

/// The waypoint `way`, its service, `db` behind a service at 10.9.0.1, and `old`, not in the mesh.
fn mesh(workloads: Vec<Workload>, services: Vec<Service>) -> View {
    let mut store = Store::new("td".parse().unwrap(), MtlsMode::Strict);
    let all = [
        workload("web", "10.0.0.1", |_| {}),
        workload("db", "10.0.0.2 fd00::2", |t| t.services = [behind("db.shop")].into()),
        workload("way", "10.0.0.3", |t| t.services = [behind("way.shop")].into()),
        workload("old", "10.0.0.4", |t| t.protocol = Protocol::Tcp),
    ];
    for workload in all.into_iter().chain(workloads) {
        store.upsert_workload(workload);
    }
    let way = service("way.shop", "10.9.0.3", |s| {
        s.ports = vec![ServicePort { port: 15008, target_port: 15008 }];
    });
    for service in [service("db.shop", "10.9.0.1", |_| {}), way].into_iter().chain(services) {
        store.upsert_service(service);
    }
    store.view()
}

fn asked(
    mesh: &View,
    from: &Workload,
    dst: &str,
    policy: OutboundTrafficPolicy,
) -> Result<Route, NoRoute> {
    let dst = OriginalDst(dst.parse().unwrap());
    decide(mesh, from, dst, true, (7, &Avoided::default()), (policy, OriginalPortHbone::Off))
}

/// `kind next hop | authority | who is expected`.
fn route(mesh: &View, from: &str, dst: &str) -> String {
    let from = mesh.workload(from).unwrap();
    let ids = |ids: &[SpiffeId]| {
        let names = ids.iter().map(|id| id.kubernetes().unwrap().1);
        names.collect::<Vec<_>>().join(" ")
    };
    match asked(mesh, from, dst, OutboundTrafficPolicy::AllowAny) {
        Ok(Route::Hbone { hop, authority, .. }) => {
            format!("HBONE {} | {authority} | {}", hop.addr, ids(&hop.expect))
        }
        Ok(Route::DoubleHbone { hop, gateway: name, .. }) => {
            let Through { gateway, hostname, port } = &**hop.through.as_ref().unwrap();
            let (gateway, expect) = (ids(gateway), ids(&hop.expect));
            let at = name.map_or(String::new(), |name| format!(" of {name}"));
            format!("DOUBLE {}{at} | {hostname}:{port} | {gateway} | {expect}", hop.addr)
        }
        Ok(Route::Tcp { addr, .. }) => format!("TCP {addr}"),
        Ok(Route::Named { hostname, port, .. }) => format!("NAME {hostname}:{port}"),
        Ok(Route::Passthrough(addr)) => format!("PASS {addr}"),
        Err(no) => no.to_string(),
    }
}

#[test]
fn services_workloads_and_strangers_are_reached_as_they_are() {
    let mesh = mesh(vec![], vec![]);
    for (dst, way) in [
        ("10.9.0.1:80", "HBONE 10.0.0.2:15008 | 10.0.0.2:8080 | db"),
        ("10.0.0.2:9999", "HBONE 10.0.0.2:15008 | 10.0.0.2:9999 | db"),
        ("[fd00::2]:9999", "HBONE [fd00::2]:15008 | [fd00::2]:9999 | db"),
        ("10.0.0.4:22", "TCP 10.0.0.4:22"),
        ("192.0.2.1:443", "PASS 192.0.2.1:443"),
        ("10.9.0.1:81", "service db.shop has no port 81; it has 80"),
        (
            "127.0.0.1:15008",
            "127.0.0.1:15008 is a port of adit itself; connect to the application instead",
        ),
    ] {
        assert_eq!(route(&mesh, "web", dst), way, "{dst}");
    }
}

#[test]
fn a_service_with_a_waypoint_is_reached_through_it_or_not_at_all() {
    let api = |waypoint: Option<Arc<Gateway>>| {
        service("api.shop", "10.9.0.2", move |s| s.waypoint = waypoint)
    };
    for (waypoint, way) in [
        (by_name("way.shop"), "HBONE 10.0.0.3:15008 | 10.9.0.2:80 | way"),
        (by_address("", "10.9.0.3"), "HBONE 10.0.0.3:15008 | 10.9.0.2:80 | way"),
        (by_address("", "10.0.0.3"), "HBONE 10.0.0.3:15008 | 10.9.0.2:80 | way"),
        (by_name("none.shop"), "unknown waypoint shop/none.shop of api.shop"),
        (by_address("far", "10.9.0.3"), "unknown waypoint far/10.9.0.3 of api.shop"),
    ] {
        let mesh = mesh(vec![], vec![api(waypoint)]);
        assert_eq!(route(&mesh, "web", "10.9.0.2:80"), way);
    }
}

#[test]
fn a_workload_with_a_waypoint_is_reached_through_it_but_for_the_waypoint_itself() {
    let db = |waypoint| {
        workload("db2", "10.0.0.5", move |t| {
            (t.waypoint, t.services) = (waypoint, [behind("db2.shop")].into());
        })
    };
    for waypoint in [by_name("way.shop"), by_address("", "10.9.0.3"), by_address("", "10.0.0.3")] {
        let mesh = mesh(vec![db(waypoint)], vec![service("db2.shop", "10.9.0.5", |_| {})]);
        let through = "HBONE 10.0.0.3:15008 | 10.0.0.5:8080 | way";
        let direct = "HBONE 10.0.0.5:15008 | 10.0.0.5:8080 | db2";
        assert_eq!(route(&mesh, "web", "10.0.0.5:8080"), through);
        assert_eq!(route(&mesh, "way", "10.0.0.5:8080"), direct);
        assert_eq!(route(&mesh, "web", "10.9.0.5:80"), direct, "the service has none");
    }
    let lost = mesh(vec![db(by_name("gone.shop"))], vec![]);
    assert_eq!(route(&lost, "web", "10.0.0.5:1"), "unknown waypoint shop/gone.shop of db2");
}

#[test]
fn of_several_waypoints_one_is_taken_by_weight() {
    let gateway = |name| by_name(name).unwrap();
    let counts = |weights: [u32; 2]| {
        let service = service("api.shop", "10.9.0.2", |s| {
            s.waypoint = by_name("way.shop");
            s.weighted_waypoints =
                vec![(gateway("a.shop"), weights[0]), (gateway("b.shop"), weights[1])];
        });
        let of = |n: u64| sampled(&service, n.rotate_left(32)).unwrap().destination.to_string();
        let all: Vec<_> = (0..100).map(of).collect();
        ["shop/a.shop", "shop/b.shop", "shop/way.shop"]
            .map(|name| all.iter().filter(|of| *of == name).count())
    };
    assert_eq!(counts([3, 1]), [75, 25, 0]);
    assert_eq!(counts([0, 1]), [0, 100, 0]);
    assert_eq!(counts([0, 0]), [0, 0, 100]);
}

#[test]
fn another_network_is_reached_through_its_gateway_with_hbone_in_hbone() {
    let far = |gateway: Option<Arc<Gateway>>| {
        workload("far", "", move |t| {
            (t.network, t.network_gateway) = ("far".into(), gateway);
            t.services = [behind("api.shop")].into();
        })
    };
    let api = || {
        service("api.shop", "10.9.0.2", |s| {
            s.subject_alt_names = vec!["spiffe://td/ns/shop/sa/api".parse().unwrap()];
        })
    };
    let east = workload("east", "192.0.2.9", |t| t.network = "far".into());
    let reached = mesh(vec![far(by_address("far", "192.0.2.9")), east], vec![api()]);
    assert_eq!(
        route(&reached, "web", "10.9.0.2:80"),
        "DOUBLE 192.0.2.9:15008 | api.shop:80 | east | api"
    );
    let lost = mesh(vec![far(by_address("far", "192.0.2.8"))], vec![api()]);
    let none = "far is in network \"far\", and no gateway to that network is known";
    assert_eq!(route(&lost, "web", "10.9.0.2:80"), none);
    let bare = mesh(vec![far(None)], vec![api()]);
    assert_eq!(
        route(&bare, "web", "10.9.0.2:80"),
        "no healthy upstream: service api.shop has no endpoint"
    );
}

#[test]
fn a_service_may_have_names_in_place_of_addresses_or_choose_nobody() {
    let named = workload("named", "", |t| {
        (t.hostname, t.protocol) = (Some("db.example".into()), Protocol::Tcp);
        t.services = [behind("api.shop")].into();
    });
    let pass = service("pass.shop", "10.9.0.6", |s| {
        let mode = BalancingMode::Passthrough;
        s.balancing = Some(crate::mesh::Balancing { mode, ..Default::default() });
    });
    let mesh = mesh(vec![named], vec![service("api.shop", "10.9.0.2", |_| {}), pass]);
    assert_eq!(route(&mesh, "web", "10.9.0.2:80"), "NAME db.example:8080");
    assert_eq!(route(&mesh, "web", "10.9.0.6:999"), "PASS 10.9.0.6:999");
}

#[test]
fn who_else_may_answer_for_a_service_is_expected_too() {
    let id = "spiffe://td/ns/shop/sa/other".parse().unwrap();
    let api = service("db.shop", "10.9.0.1", |s| s.subject_alt_names = vec![id]);
    let mesh = mesh(vec![], vec![api]);
    assert_eq!(
        route(&mesh, "web", "10.9.0.1:80"),
        "HBONE 10.0.0.2:15008 | 10.0.0.2:8080 | other db"
    );
}

/// Which endpoint each way has, and whether its answer is its own.
#[test]
fn an_endpoint_is_what_was_chosen_and_nothing_is_where_there_was_no_choice() {
    let behind_way = workload("kept", "10.0.0.5", |t| t.waypoint = by_name("way.shop"));
    let mesh = mesh(vec![behind_way], vec![]);
    let from = mesh.workload("web").unwrap();
    let ask = |dst: &str, avoided: &Avoided| {
        let policy = (OutboundTrafficPolicy::AllowAny, OriginalPortHbone::Accept);
        decide(&mesh, from, OriginalDst(dst.parse().unwrap()), true, (7, avoided), policy)
    };
    for (dst, endpoint, direct) in [
        ("10.9.0.1:80", Some("10.0.0.2:8080"), true),
        ("10.0.0.5:80", Some("10.0.0.3:15008"), false),
        ("10.0.0.2:9999", None, true),
        ("10.0.0.4:22", None, true),
        ("192.0.2.1:443", None, true),
    ] {
        let route = ask(dst, &Avoided::default()).unwrap();
        let chosen = route.endpoint();
        assert_eq!(chosen.as_ref().map(ToString::to_string).as_deref(), endpoint, "{dst}");
        assert_eq!(route.is_direct(), direct, "{dst}");
        if let Some(chosen) = chosen {
            let avoided = Avoided { tried: vec![chosen], ..Avoided::default() };
            assert!(ask(dst, &avoided).is_err(), "{dst}: there is no other");
        }
    }
}

#[test]
fn who_is_not_in_the_mesh_is_called_only_where_the_operator_lets_pods_do_so() {
    let open = service("open.test", "192.0.2.7", |s| {
        let mode = BalancingMode::Passthrough;
        s.balancing = Some(crate::mesh::Balancing { mode, ..Default::default() });
    });
    let mesh = mesh(vec![], vec![open]);
    let from = mesh.workload("web").unwrap();
    let only = |dst: &str| asked(&mesh, from, dst, OutboundTrafficPolicy::RegistryOnly);
    let refused = only("192.0.2.1:443").unwrap_err();
    assert_eq!(refused.close_reason(), CloseReason::EgressDenied);
    assert!(refused.to_string().starts_with("192.0.2.1:443 is not an address of the mesh"));
    for dst in ["10.9.0.1:80", "10.0.0.2:9999", "10.0.0.4:22", "192.0.2.7:443"] {
        assert!(only(dst).is_ok(), "{dst}");
    }
}

/// What has to be asked for, where the mesh is asked for one by one.
#[test]
fn a_way_that_depends_on_what_is_not_known_says_on_what() {
    let kept = workload("kept", "10.0.0.5", |t| t.waypoint = by_name("lost.shop"));
    let other = workload("other", "10.0.0.6", |t| t.waypoint = by_address("", "10.9.0.9"));
    let far = workload("far", "10.8.0.1", |t| {
        t.network = "n2".into();
        t.network_gateway = by_address("n2", "172.16.0.1");
        t.services = [behind("far.shop")].into();
    });
    let mesh = mesh(vec![kept, other, far], vec![service("far.shop", "10.9.0.4", |_| {})]);
    let from = mesh.workload("web").unwrap();
    for policy in [OutboundTrafficPolicy::AllowAny, OutboundTrafficPolicy::RegistryOnly] {
        for (dst, lacking) in [
            ("10.9.0.1:80", None),
            ("10.9.0.1:81", None),
            ("10.0.0.2:9999", None),
            ("192.0.2.1:443", Some("/192.0.2.1")),
            ("10.0.0.5:80", Some("shop/lost.shop")),
            ("10.0.0.6:80", Some("/10.9.0.9")),
            ("10.9.0.4:80", Some("n2/172.16.0.1")),
        ] {
            let way = asked(&mesh, from, dst, policy);
            let lacks = super::super::on_demand::lacks(&mesh, &way);
            assert_eq!(lacks.as_deref(), lacking, "{dst}: {way:?}");
        }
    }
}

/// As istiod has it for a gateway whose load balancer has a name and no address.
#[test]
fn a_gateway_may_be_a_workload_with_a_host_name() {
    let lb = workload("lb", "", |t| {
        (t.network, t.hostname) = ("n2".into(), Some("lb.cloud.test".into()));
    });
    let far = workload("far", "10.8.0.1", |t| {
        t.network = "n2".into();
        t.network_gateway = by_name("lb.cloud.test");
        t.services = [behind("far.shop")].into();
    });
    let services = vec![service("far.shop", "10.9.0.4", |s| {
        s.subject_alt_names = vec!["spiffe://td/ns/shop/sa/far".parse().unwrap()];
    })];
    let mesh = mesh(vec![lb, far], services);
    let way = route(&mesh, "web", "10.9.0.4:80");
    assert_eq!(way, "DOUBLE 10.9.0.4:15008 of lb.cloud.test | far.shop:80 | lb | far");
    let from = mesh.workload("web").unwrap();
    let chosen = asked(&mesh, from, "10.9.0.4:80", OutboundTrafficPolicy::AllowAny).unwrap();
    assert_eq!(chosen.endpoint().unwrap().to_string(), "lb.cloud.test:15008");
}

/// Of an alias of the caller's trust domain: who answers, and the gateway on the way.
#[test]
fn who_answers_may_have_each_name_of_the_callers_trust_domain_and_of_no_other() {
    let ids = |all: &[&str]| -> Vec<SpiffeId> {
        all.iter().map(|id| format!("spiffe://{id}").parse().unwrap()).collect()
    };
    let through = Through { gateway: ids(&["td/gw"]), hostname: "db.shop".into(), port: 80 };
    let addr = "10.0.0.1:15008".parse().unwrap();
    let hop = Hop { through: Some(Arc::new(through)), ..Hop::new(addr, ids(&["td/db", "x/db"])) };
    let route = |hop| {
        let to = Arc::new(workload("db", "10.0.0.2", |_| {}));
        Route::Hbone { hop, authority: addr, to, service: None }
    };
    let of = |aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| alias.parse().unwrap()).collect();
        match route(hop.clone()).with_aliases(&aliases, &"td".parse().unwrap()) {
            Route::Hbone { hop, .. } => hop,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(of(&[]), hop);
    let with = of(&["old", "td", "old"]);
    assert_eq!(with.expect, ids(&["td/db", "x/db", "old/db"]));
    assert_eq!(with.through.unwrap().gateway, ids(&["td/gw", "old/gw"]));
}

/// Where tunnels go to applications' own ports; to whom is as ever.
#[test]
fn a_tunnel_goes_to_the_applications_port_where_it_arrives_there() {
    let tunnelled = |port| {
        let tunnel = crate::mesh::AppTunnel { proxy_protocol: false, port };
        move |t: &mut Template| t.app_tunnel = Some(tunnel)
    };
    let far = workload("far", "10.8.0.1", |t| {
        t.network = "n2".into();
        t.network_gateway = by_name("way.shop");
        t.services = [behind("far.shop")].into();
    });
    let workloads = vec![
        workload("kept", "10.0.0.5", |t| t.waypoint = by_name("way.shop")),
        workload("native", "10.0.0.6", |t| t.native_tunnel = true),
        workload("fixed", "10.0.0.7", tunnelled(Some(9000))),
        workload("any", "10.0.0.8", tunnelled(None)),
        far,
    ];
    let mesh = mesh(workloads, vec![service("far.shop", "10.9.0.4", |_| {})]);
    let from = mesh.workload("web").unwrap();
    let hop = |dst: &str, ports| {
        let policy = (OutboundTrafficPolicy::AllowAny, ports);
        let dst = OriginalDst(dst.parse().unwrap());
        let route = decide(&mesh, from, dst, true, (7, &Avoided::default()), policy).unwrap();
        let is_direct = route.is_direct();
        match route {
            Route::Hbone { hop, .. } | Route::DoubleHbone { hop, .. } => {
                Some((hop.addr.to_string(), hop.port == TunnelPort::Original, is_direct))
            }
            _ => None,
        }
    };
    for (what, dst, at, original, is_direct) in [
        ("a service", "10.9.0.1:80", "10.0.0.2:8080", true, true),
        ("a workload", "10.0.0.2:9999", "10.0.0.2:9999", true, true),
        ("IPv6", "[fd00::2]:9999", "[fd00::2]:9999", true, true),
        ("an application tunnel's port", "10.0.0.7:80", "10.0.0.7:9000", true, true),
        ("an application tunnel of each port", "10.0.0.8:80", "10.0.0.8:80", true, true),
        ("a waypoint", "10.0.0.5:80", "10.0.0.3:15008", false, false),
        ("a gateway", "10.9.0.4:80", "10.0.0.3:15008", false, false),
        ("who takes tunnels by itself", "10.0.0.6:80", "10.0.0.6:15008", false, true),
        ("the caller itself", "10.0.0.1:80", "10.0.0.1:15008", false, true),
        ("a port of ours", "10.0.0.2:15006", "10.0.0.2:15008", false, true),
        ("HBONE's port", "10.0.0.2:15008", "10.0.0.2:15008", false, true),
    ] {
        let expected = Some((at.to_owned(), original, is_direct));
        assert_eq!(hop(dst, OriginalPortHbone::Send), expected, "{what}");
        for ports in [OriginalPortHbone::Off, OriginalPortHbone::Accept] {
            let (at, original, direct) = hop(dst, ports).unwrap();
            assert!(at.ends_with(":15008") && !original, "{what}: {at}");
            assert_eq!(direct, is_direct, "{what}");
        }
    }
    assert_eq!(hop("10.0.0.4:22", OriginalPortHbone::Send), None, "who is not in the mesh");
}

/// Whoever has the name that a waypoint had as a service is not one by that.
#[test]
fn a_waypoint_is_no_workload_with_its_host_name() {
    let lb = workload("lb", "", |t| {
        (t.network, t.hostname) = ("n2".into(), Some("way.cloud.test".into()));
        t.network_gateway = by_address("n2", "192.0.2.9");
    });
    let east = workload("east", "192.0.2.9", |t| t.network = "n2".into());
    let services = vec![service("api.shop", "10.9.0.2", |s| {
        s.waypoint = by_name("way.cloud.test");
        s.subject_alt_names = vec!["spiffe://td/ns/shop/sa/api".parse().unwrap()];
    })];
    let mesh = mesh(vec![lb, east], services);
    let way = route(&mesh, "web", "10.9.0.2:80");
    assert_eq!(way, "unknown waypoint shop/way.cloud.test of api.shop");
}
