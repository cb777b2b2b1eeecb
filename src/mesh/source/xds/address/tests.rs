//! Resources as a control plane sends them, right and wrong.

use std::{net::IpAddr, time::Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    mesh::{
        BalancingMode, Families, GatewayDestination, LocalityScope, Protocol, ServicePort,
        WorkloadKind,
        source::xds::{Answer, Delta, DeltaAds, NodeIdentity, Received, TypeUrl},
    },
    rpc::{
        address::{
            ApplicationTunnel, GatewayAddress, LoadBalancing, NamespacedHostname, NetworkAddress,
            Port, PortList, Service as SentService, WeightedWaypoint, Workload as SentWorkload,
            gateway_address::Destination,
        },
        discovery::DeltaDiscoveryResponse,
    },
};

/// What an istiod sent to a ztunnel, in hexadecimal: all Addresses of a mesh, all policies, four
/// Addresses after a change, a removed policy.
fn recorded() -> Vec<DeltaDiscoveryResponse> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let frame = |line: &str| line.as_bytes().chunks(2).map(byte).collect::<Vec<u8>>();
    let frames = include_str!("../recorded.txt").lines().map(frame);
    frames.map(|frame| DeltaDiscoveryResponse::decode(&*frame).unwrap()).collect()
}

fn node() -> NodeIdentity {
    let id = "ztunnel~10.244.1.2~adit-n1.istio-system~istio-system.svc.cluster.local";
    NodeIdentity { id: id.into(), metadata: [].into() }
}

fn deltas(responses: Vec<DeltaDiscoveryResponse>) -> Vec<Delta> {
    let mut ads = DeltaAds::new(&node(), false);
    ads.connected();
    let mut all = Vec::new();
    for response in responses {
        let Received::Delta(delta, pending) = ads.received(response).unwrap() else { panic!() };
        ads.applied(pending, Vec::new(), Instant::now());
        all.push(delta);
    }
    all
}

fn workload_of(address: MeshAddress) -> Workload {
    let MeshAddress::Workload(workload) = address else { panic!("{address:?}") };
    workload
}

fn service_of(address: MeshAddress) -> Service {
    let MeshAddress::Service(service) = address else { panic!("{address:?}") };
    service
}

#[test]
fn what_a_real_istiod_sends_is_understood() {
    let deltas = deltas(recorded());
    let types: Vec<_> = deltas.iter().map(|delta| delta.type_url).collect();
    assert_eq!(types, [TypeUrl::Address, TypeUrl::Authorization].repeat(2));
    let decoded = |name: &str| {
        let found = deltas[0].upserted.iter().find(|resource| *resource.name == *name);
        decode(found.unwrap_or_else(|| panic!("{name}"))).unwrap()
    };
    for resource in &deltas[0].upserted {
        decode(resource).unwrap();
    }
    let server = workload_of(decoded("Kubernetes//Pod/mesh/a-server"));
    assert_eq!(server.addresses[..], [IpAddr::from([10, 244, 1, 11])]);
    assert_eq!(server.id().as_str(), "spiffe://cluster.local/ns/mesh/sa/server");
    assert_eq!((server.protocol(), server.healthy), (Protocol::Hbone, true));
    assert_eq!(server.node.as_deref(), Some("n1"));
    assert_eq!(
        server.policies().iter().map(|name| &**name).collect::<Vec<_>>(),
        ["mesh/allow-client", "istio-system/istio_converted_static_strict"]
    );
    let local = server.membership("mesh", "local.mesh.svc.cluster.local").unwrap();
    assert_eq!(local.ports[..], [ServicePort { port: 81, target_port: 8080 }]);
    assert_eq!(server.services().len(), 4);
    let template = &server.template;
    assert_eq!((&*template.cluster, template.capacity), ("Kubernetes", 1));
    assert_eq!(&*template.locality.zone, "z1");
    assert_eq!((&*template.app.canonical_name, template.app.kind), ("echo", WorkloadKind::Pod));
    let plain = workload_of(decoded("Kubernetes//Pod/plain/p-client"));
    assert_eq!(plain.protocol(), Protocol::Tcp);
    assert_eq!(plain.id().as_str(), "spiffe://cluster.local/ns/plain/sa/default");
    let echo = service_of(decoded("mesh/echo.mesh.svc.cluster.local"));
    assert_eq!(echo.ports, [ServicePort { port: 80, target_port: 8080 }]);
    assert_eq!((echo.vips.len(), echo.is_canonical), (1, true));
    assert_eq!(echo.families, Families::Ipv4);
    let headless = service_of(decoded("mesh/headless.mesh.svc.cluster.local"));
    assert!(headless.vips.is_empty());
}

fn upserted(name: &str, message: &Address) -> Upserted {
    Upserted { name: name.into(), value: message.encode_to_vec().into() }
}

fn sent_workload() -> SentWorkload {
    SentWorkload {
        uid: "uid".into(),
        name: "pod".into(),
        namespace: "ns".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        tunnel_protocol: 1,
        ..Default::default()
    }
}

fn sent_service() -> SentService {
    let (name, namespace) = ("db".into(), "ns".into());
    SentService { name, namespace, hostname: "db.test".into(), ..Default::default() }
}

fn decode_workload(change: impl FnOnce(&mut SentWorkload)) -> Result<Workload, String> {
    let mut sent = sent_workload();
    change(&mut sent);
    let address = Address { r#type: Some(Type::Workload(sent)) };
    decode(&upserted("uid", &address)).map(workload_of).map_err(|fault| fault.reason)
}

fn decode_service(change: impl FnOnce(&mut SentService)) -> Result<Service, String> {
    let mut sent = sent_service();
    change(&mut sent);
    let address = Address { r#type: Some(Type::Service(sent)) };
    decode(&upserted("ns/db.test", &address)).map(service_of).map_err(|fault| fault.reason)
}

fn gateway_at(destination: Option<Destination>, port: u32) -> GatewayAddress {
    GatewayAddress { destination, hbone_mtls_port: port }
}

fn at(ip: &[u8], length: Option<u32>) -> NetworkAddress {
    NetworkAddress { network: "net".into(), address: ip.to_vec(), length }
}

#[test]
fn what_is_left_out_has_its_default() {
    let workload = decode_workload(|_| {}).unwrap();
    assert_eq!(workload.id().as_str(), "spiffe://cluster.local/ns/ns/sa/default");
    assert_eq!((&*workload.template.cluster, workload.template.capacity), ("Kubernetes", 1));
    assert_eq!((workload.node, workload.template.app_tunnel), (None, None));
    let never = decode_workload(|sent| sent.capacity = Some(0)).unwrap();
    assert_eq!(never.template.capacity, 0);
    let named = decode_workload(|sent| {
        (sent.trust_domain, sent.service_account) = ("td".into(), "sa".into());
    });
    assert_eq!(named.unwrap().id().as_str(), "spiffe://td/ns/ns/sa/sa");
    assert_eq!(decode_service(|_| {}).unwrap().balancing, None);
}

#[test]
fn gateways_tunnels_and_ranges_are_kept() {
    let name = NamespacedHostname { namespace: "ns".into(), hostname: "wp.test".into() };
    let workload = decode_workload(|sent| {
        sent.waypoint = Some(gateway_at(Some(Destination::Hostname(name)), 15_008));
        let east_west = Destination::Address(at(&[172, 16, 0, 1], None));
        sent.network_gateway = Some(gateway_at(Some(east_west), 15_009));
        sent.application_tunnel = Some(ApplicationTunnel { protocol: 1, port: 0 });
        // ::ffff:10.0.0.1 is 10.0.0.1.
        sent.addresses = vec![IpAddr::from([10, 0, 0, 1]).to_mapped()];
    });
    let workload = workload.unwrap();
    assert_eq!(workload.addresses[..], [IpAddr::from([10, 0, 0, 1])]);
    let waypoint = workload.template.waypoint.clone().unwrap();
    assert_eq!(
        (waypoint.destination.to_string(), waypoint.hbone_port),
        ("ns/wp.test".into(), 15_008)
    );
    let gateway = workload.template.network_gateway.clone().unwrap();
    assert!(matches!(gateway.destination, GatewayDestination::Address(_)));
    let tunnel = workload.template.app_tunnel.unwrap();
    assert_eq!((tunnel.proxy_protocol, tunnel.port), (true, None));
    let service = decode_service(|sent| {
        sent.addresses = vec![at(&[10, 1, 2, 3], Some(32)), at(&[10, 1, 2, 3], Some(16))];
        let balancing = LoadBalancing { routing_preference: vec![6, 1], mode: 2, health_policy: 1 };
        sent.load_balancing = Some(balancing);
        sent.subject_alt_names = vec!["spiffe://td/a".into(), "not an identity".into()];
        sent.visibility = 1;
    });
    let service = service.unwrap();
    assert_eq!(service.vips[0].ip, IpAddr::from([10, 1, 2, 3]));
    assert_eq!(service.cidr_vips[0].1.to_string(), "10.1.0.0/16");
    let balancing = service.balancing.unwrap();
    assert_eq!((balancing.mode, balancing.any_health), (BalancingMode::Failover, true));
    assert_eq!(balancing.preferences, [LocalityScope::Network, LocalityScope::Region]);
    assert_eq!((service.subject_alt_names.len(), service.is_private), (1, true));
}

trait Mapped {
    fn to_mapped(self) -> Vec<u8>;
}

impl Mapped for IpAddr {
    fn to_mapped(self) -> Vec<u8> {
        let IpAddr::V4(ip) = self else { panic!() };
        ip.to_ipv6_mapped().octets().to_vec()
    }
}

#[test]
fn a_workload_that_cannot_be_had_whole_is_refused_with_the_reason() {
    type Change = fn(&mut SentWorkload);
    let port = |service_port, target_port| Port { service_port, target_port, app_protocol: 0 };
    let rows: [(&str, Change); 15] = [
        ("its uid differs from its resource name", |w| w.uid = "other".into()),
        ("addresses has an address of 5 bytes", |w| w.addresses = vec![vec![0; 5]]),
        ("LEGACY_ISTIO_MTLS is not supported", |w| w.tunnel_protocol = 2),
        ("tunnel_protocol has the value 3", |w| w.tunnel_protocol = 3),
        ("trust_domain", |w| w.trust_domain = "Not A Domain".into()),
        ("do not make a valid SPIFFE ID", |w| w.service_account = "a/b".into()),
        ("do not make a valid SPIFFE ID", |w| w.namespace = String::new()),
        ("status has the value 2", |w| w.status = 2),
        ("network_mode has the value 9", |w| w.network_mode = 9),
        ("waypoint has no destination", |w| w.waypoint = Some(gateway_at(None, 1))),
        ("network_gateway has the port 70000", |w| {
            let destination = Some(Destination::Address(at(&[1, 1, 1, 1], None)));
            w.network_gateway = Some(gateway_at(destination, 70_000));
        }),
        ("services has a key that is not", |w| {
            drop(w.services.insert("x".into(), PortList::default()))
        }),
        ("services has a key that is not", |w| {
            drop(w.services.insert("a/b/c".into(), PortList::default()))
        }),
        ("application_tunnel has the value", |w| {
            w.application_tunnel = Some(ApplicationTunnel { protocol: 2, port: 1 });
        }),
        ("canonical_name has 2000 bytes", |w| w.canonical_name = "n".repeat(2000)),
    ];
    for (reason, change) in rows {
        let refused = decode_workload(change).unwrap_err();
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    let wrong = decode_workload(|w| {
        drop(w.services.insert("ns/a.test".into(), PortList { ports: vec![port(80, 70_000)] }));
    });
    assert!(wrong.unwrap_err().contains("services has the port 70000"));
    let unknown = decode_workload(|w| w.workload_type = 77).unwrap();
    assert_eq!(unknown.template.app.kind, WorkloadKind::Deployment, "it is only told");
}

#[test]
fn a_service_that_cannot_be_had_whole_is_refused_with_the_reason() {
    type Change = fn(&mut SentService);
    let rows: [(&str, Change); 9] = [
        ("differ from its resource name", |s| s.hostname = "other.test".into()),
        ("addresses has an address of 0 bytes", |s| s.addresses = vec![at(&[], None)]),
        ("a prefix that does not fit", |s| s.addresses = vec![at(&[10, 0, 0, 1], Some(33))]),
        ("waypoint has no destination", |s| s.waypoint = Some(gateway_at(None, 1))),
        ("has no destination", |s| {
            s.weighted_waypoints = vec![WeightedWaypoint { destination: None, weight: 1 }];
        }),
        ("an unspecified scope", |s| {
            let preferences = vec![0];
            s.load_balancing =
                Some(LoadBalancing { routing_preference: preferences, ..Default::default() });
        }),
        ("mode has the value 4", |s| {
            s.load_balancing = Some(LoadBalancing { mode: 4, ..Default::default() });
        }),
        ("health_policy has the value 2", |s| {
            s.load_balancing = Some(LoadBalancing { health_policy: 2, ..Default::default() });
        }),
        ("ip_families has the value 4", |s| s.ip_families = 4),
    ];
    for (reason, change) in rows {
        let refused = decode_service(change).unwrap_err();
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    assert!(!decode_service(|s| s.visibility = 9).unwrap().is_private, "as ztunnel reads it");
    let empty = decode(&upserted("x", &Address::default())).unwrap_err();
    assert_eq!(empty.reason, "is neither a workload nor a service");
}

#[test]
fn a_name_is_a_service_only_with_one_slash() {
    for (name, key) in [
        ("ns/db.test", Some(("ns", "db.test"))),
        ("Kubernetes//Pod/ns/a", None),
        ("/10.0.0.1", None),
        ("ns/", None),
        ("uid", None),
    ] {
        assert_eq!(service_key(name), key, "{name}");
    }
}

#[tokio::test]
async fn many_are_decoded_in_their_order() {
    let good = Address { r#type: Some(Type::Service(sent_service())) };
    let mut all: Vec<_> = (0..1000).map(|_| upserted("ns/db.test", &good)).collect();
    all[500].value = Bytes::from_static(&[0xff]);
    let decoded = decode_all(all).await;
    assert_eq!((decoded.len(), decoded.iter().filter(|d| d.is_ok()).count()), (1000, 999));
    assert!(decoded[500].is_err());
}

fn any_gateway() -> impl Strategy<Value = Option<GatewayAddress>> {
    let ip = (".{0,4}", any::<Vec<u8>>(), any::<Option<u32>>());
    let ip = ip.prop_map(|(network, address, length)| {
        Destination::Address(NetworkAddress { network, address, length })
    });
    let name = (".{0,4}", ".{0,4}").prop_map(|(namespace, hostname)| {
        Destination::Hostname(NamespacedHostname { namespace, hostname })
    });
    let destination = proptest::option::of(prop_oneof![ip, name]);
    proptest::option::of((destination, any::<u32>()).prop_map(|(d, port)| gateway_at(d, port)))
}

fn any_workload() -> impl Strategy<Value = SentWorkload> {
    let addresses = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..18), 0..4);
    let port = (any::<u32>(), any::<u32>());
    let services = proptest::collection::hash_map("[a-z/.]{0,6}", port, 0..4);
    let names = (".{0,6}", ".{0,6}", ".{0,6}", ".{0,6}");
    (names, addresses, services, (0..4_i32, 0..3_i32, 0..3_i32), any_gateway(), any_gateway())
        .prop_map(|(names, addresses, services, numbers, waypoint, network_gateway)| {
            let port = |(service_port, target_port)| PortList {
                ports: vec![Port { service_port, target_port, app_protocol: 0 }],
            };
            SentWorkload {
                uid: "uid".into(),
                name: names.0,
                namespace: names.1,
                trust_domain: names.2,
                service_account: names.3,
                addresses,
                services: services.into_iter().map(|(key, ports)| (key, port(ports))).collect(),
                tunnel_protocol: numbers.0,
                status: numbers.1,
                network_mode: numbers.2,
                waypoint,
                network_gateway,
                ..Default::default()
            }
        })
}

proptest! {
    #[test]
    fn whatever_stands_beside_it_a_good_resource_is_decoded(
        bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
        workload in any_workload(),
    ) {
        let good = Address { r#type: Some(Type::Workload(sent_workload())) };
        let mut all = vec![upserted("uid", &good)];
        all.extend(bytes.into_iter().map(|b| Upserted { name: "x".into(), value: b.into() }));
        all.push(upserted("uid", &Address { r#type: Some(Type::Workload(workload)) }));
        all.push(upserted("uid", &good));
        let decoded: Vec<_> = all.iter().map(decode).collect();
        prop_assert!(decoded[0].is_ok() && decoded.last().unwrap().is_ok());
        for fault in decoded.iter().filter_map(|one| one.as_ref().err()) {
            prop_assert!(fault.reason.chars().count() < 400);
        }
    }

    #[test]
    fn any_response_is_taken_or_refused(
        resources in proptest::collection::vec((".{0,4}", ".{0,4}", any::<Vec<u8>>()), 0..8),
        removed in proptest::collection::vec(".{0,4}", 0..4),
        key in ".{0,4}",
    ) {
        let mut ads = DeltaAds::new(&node(), true);
        ads.connected();
        ads.demand(&key.as_str().into()).unwrap();
        let type_url = TypeUrl::Address.as_str().to_owned();
        let resource = |(name, version, value): (String, String, Vec<u8>)| {
            let content = crate::rpc::discovery::Any { type_url: type_url.clone(), value: value.into() };
            let (resource, aliases) = (Some(content), vec![name.clone()]);
            crate::rpc::discovery::Resource { name, version, resource, aliases }
        };
        let resources: Vec<_> = resources.into_iter().map(resource).collect();
        let named = resources.iter().any(|r| r.name == key) && !key.is_empty();
        let gone = removed.contains(&key);
        let response = DeltaDiscoveryResponse {
            type_url: type_url.clone(),
            resources,
            removed_resources: removed,
            ..Default::default()
        };
        let Received::Delta(delta, pending) = ads.received(response).unwrap() else { panic!() };
        let applied = ads.applied(pending, Vec::new(), Instant::now());
        let answers: Vec<Answer> = applied.answered.into_iter().map(|(_, answer)| answer).collect();
        if named || gone {
            prop_assert_eq!(answers.len(), 1, "who waits goes on");
        }
        let mut names: Vec<_> = delta.upserted.iter().map(|u| &u.name).collect();
        names.sort();
        prop_assert!(names.windows(2).all(|two| two[0] != two[1]), "each name once");
        prop_assert!(ads.status(TypeUrl::Address).resources <= delta.upserted.len());
    }
}
