//! A dump of an ambient node, decoded as strictly as `istioctl` and Kiali do (ambient contract §8).

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use serde::Deserialize;

use super::*;
use crate::{
    config::environment::Surroundings,
    identity::{BundleSet, PrivateKey, TrustBundle, X509Svid},
    mesh::{
        AppNames, AppTunnel, Balancing, BalancingMode, Families, Gateway, GatewayDestination,
        Locality, LocalityScope, Membership, MtlsMode, Protocol, Service, ServicePort, Store,
        Template, Workload, WorkloadKind,
    },
    net::{Direction, PeerAddr, PodName},
    observe::{Telemetry, conn::OpenConn},
};

type Ports = BTreeMap<String, u16>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    workloads: Vec<DumpedWorkload>,
    services: Vec<DumpedService>,
    policies: Vec<Value>,
    staged_services: BTreeMap<String, Value>,
    static_config: BTreeMap<String, Vec<Value>>,
    certificates: Vec<Certificate>,
    config: Config,
    version: BTreeMap<String, String>,
    workload_state: BTreeMap<String, Pod>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Hop {
    destination: String,
    hbone_mtls_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpedWorkload {
    workload_ips: Vec<String>,
    waypoint: Option<Hop>,
    network_gateway: Option<Hop>,
    protocol: String,
    network_mode: String,
    uid: String,
    name: String,
    namespace: String,
    trust_domain: String,
    service_account: String,
    network: String,
    workload_name: String,
    workload_type: String,
    canonical_name: String,
    canonical_revision: String,
    node: String,
    native_tunnel: bool,
    application_tunnel: BTreeMap<String, Value>,
    authorization_policies: Vec<String>,
    status: String,
    cluster_id: String,
    locality: BTreeMap<String, String>,
    services: Vec<String>,
    capacity: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpedEndpoint {
    workload_uid: String,
    port: Ports,
    status: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Balancer {
    routing_preferences: Vec<String>,
    mode: String,
    health_policy: String,
}

#[derive(Debug, Deserialize)]
struct Weighted {
    destination: Hop,
    weight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DumpedService {
    name: String,
    namespace: String,
    hostname: String,
    vips: Vec<String>,
    cidr_vips: Vec<BTreeMap<String, String>>,
    ports: Ports,
    endpoints: BTreeMap<String, DumpedEndpoint>,
    subject_alt_names: Vec<String>,
    waypoint: Hop,
    weighted_waypoints: Vec<Weighted>,
    load_balancer: Balancer,
    ip_families: String,
    canonical: bool,
    visibility: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    identity: String,
    state: String,
    cert_chain: Vec<OneCertificate>,
    root_certs: Vec<OneCertificate>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OneCertificate {
    pem: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

#[derive(Debug, Deserialize)]
struct Time {
    secs: u64,
    nanos: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Local {
    localhost: (bool, u16),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    proxy: bool,
    dns_proxy: bool,
    num_worker_threads: u32,
    window_size: u32,
    pool_unused_release_timeout: Time,
    secret_ttl: Time,
    self_termination_deadline: Time,
    admin_addr: Local,
    dns_proxy_addr: Local,
    stats_addr: BTreeMap<String, String>,
    inbound_addr: String,
    illegal_ports: Vec<u16>,
    local_node: Option<String>,
    proxy_mode: String,
    ca_address: String,
    ca_root_cert: BTreeMap<String, String>,
    xds_address: String,
    proxy_metadata: BTreeMap<String, String>,
    proxy_args: String,
    inpod_uds: String,
    packet_mark: u32,
}

#[derive(Debug, Deserialize)]
struct Pod {
    state: String,
    info: BTreeMap<String, String>,
    connections: Option<PodConnections>,
}

#[derive(Debug, Deserialize)]
struct PodConnections {
    inbound: Vec<PodConnection>,
    outbound: Vec<PodConnection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodConnection {
    src: SocketAddr,
    original_dst: Option<String>,
    actual_dst: SocketAddr,
    protocol: String,
}

const UID: &str = "Kubernetes//Pod/shop/web";
const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn gateway(namespace: &str, hostname: &str) -> Arc<Gateway> {
    let destination =
        GatewayDestination::Hostname { namespace: namespace.into(), hostname: hostname.into() };
    Arc::new(Gateway { destination, hbone_port: 15008 })
}

fn mesh() -> View {
    let mut store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
    let (namespace, hostname): (Arc<str>, Arc<str>) = ("shop".into(), "web.shop.svc".into());
    let own = ServicePort { port: 81, target_port: 9090 };
    let member = Membership {
        namespace: Arc::clone(&namespace),
        hostname: Arc::clone(&hostname),
        ports: [own].into(),
    };
    let template = Template {
        network: "n1".into(),
        protocol: Protocol::Hbone,
        policies: ["shop/allow".into()].into(),
        services: [member].into(),
        app: AppNames {
            workload: "web".into(),
            kind: WorkloadKind::Deployment,
            canonical_name: "web".into(),
            canonical_revision: "v1".into(),
        },
        cluster: "Kubernetes".into(),
        locality: Locality { region: "r".into(), zone: "z".into(), subzone: "".into() },
        waypoint: Some(gateway("shop", "waypoint.shop.svc")),
        network_gateway: Some(Arc::new(Gateway {
            destination: GatewayDestination::Address("10.0.0.9".parse::<IpAddr>().unwrap().into()),
            hbone_port: 15010,
        })),
        app_tunnel: Some(AppTunnel { proxy_protocol: true, port: None }),
        host_network: true,
        native_tunnel: true,
        capacity: 3,
        ..Template::new(Arc::clone(&namespace), ID.parse().unwrap())
    };
    store.upsert_workload(Workload {
        uid: UID.into(),
        name: "web-7f".into(),
        addresses: ["10.244.1.7".parse().unwrap()].into(),
        node: Some("n1".into()),
        healthy: false,
        template: Arc::new(template),
        local: None,
    });
    store.upsert_service(Service {
        vips: vec!["10.96.0.1".parse::<IpAddr>().unwrap().into()],
        cidr_vips: vec![("n1".into(), "10.97.0.0/24".parse().unwrap())],
        ports: vec![ServicePort { port: 80, target_port: 8080 }],
        subject_alt_names: vec![ID.parse().unwrap()],
        waypoint: Some(gateway("shop", "waypoint.shop.svc")),
        weighted_waypoints: vec![(gateway("shop", "canary.shop.svc"), 10)],
        balancing: Some(Balancing {
            mode: BalancingMode::Failover,
            preferences: vec![LocalityScope::Network, LocalityScope::Zone],
            any_health: true,
        }),
        families: Families::Dual,
        is_canonical: true,
        is_private: true,
        ..Service::new(namespace, hostname)
    });
    store.view()
}

fn environment() -> Environment {
    let around = Surroundings { cores: 4, exists: &|_: &Path| true, read: &|_: &Path| Ok(None) };
    let variables = [
        ("NODE_NAME", "n1"),
        ("XDS_HEADER_KEY", "secret"),
        ("XDS_ADDRESS", "istiod:1"),
        ("UNSTABLE_ENABLE_SOCKS5", "true"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Environment::read(variables, &["proxy".into(), "ztunnel".into()], &around).unwrap()
}

/// One certificate that is its own root.
fn certificates() -> Vec<CertificateView> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(vec![1, 0].into());
    let der = params.self_signed(&key).unwrap().der().clone();
    let svid = X509Svid {
        id: ID.parse().unwrap(),
        chain: vec![der.clone()],
        key: PrivateKey::from_pkcs8(key.serialize_der()),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
        serial: "0100".into(),
    };
    let bundle = TrustBundle::new("cluster.local".parse().unwrap(), vec![der]);
    let of = |workload: &str, identity: &str| SvidStatus {
        workload: workload.into(),
        identity: identity.into(),
        ..status()
    };
    let other = "spiffe://cluster.local/ns/shop/sa/db";
    let held =
        vec![(of("a", ID), None), (of("b", ID), Some(Arc::new(svid))), (of("c", other), None)];
    certificates::one_for_each_identity(held, &BundleSet::from_iter([bundle]))
}

fn pod(uid: &str, up: bool) -> PodView {
    PodView {
        uid: uid.into(),
        key: format!("pod/{uid}").into(),
        name: "web-7f".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        up,
    }
}

fn connect(telemetry: &Telemetry, direction: Direction) -> OpenConn {
    let peer = PeerAddr("10.244.1.7:4711".parse().unwrap());
    let conn = OpenConn::open(telemetry, direction, peer);
    conn.metadata(|f| {
        f.pod = Some(Arc::new(PodName {
            uid: "pod/u1".into(),
            name: "shop/web-7f".into(),
            service_account: Some("web".into()),
        }));
        f.protocol = Some("HBONE");
        f.dst_addr = Some("10.244.2.8:15008".parse().unwrap());
        match direction {
            Direction::Inbound => f.service = Some("web.shop.svc".into()),
            Direction::Outbound => f.flow_dst = Some("10.96.0.1:80".parse().unwrap()),
        }
    });
    conn
}

/// What tools read.
fn decoded() -> Dump {
    let telemetry = Telemetry::new().unwrap();
    let _open = [Direction::Inbound, Direction::Outbound].map(|of| connect(&telemetry, of));
    let dump = ConfigDump {
        mesh: mesh().dump(),
        staged_services: BTreeMap::new(),
        static_config: StaticConfig::default(),
        certificates: certificates(),
        config: settings(&environment()),
        tls: ChoicesView { aead: Vec::new() },
        version: BuildInfo::with_istio(Some("1.31.0")),
        workload_state: Some(pods(&[pod("u1", true), pod("u2", false)], &telemetry.live.all())),
        pod_faults: Vec::new(),
        non_tcp: Vec::new(),
        ejected_endpoints: Vec::new(),
        control_plane: None,
    };
    let text = serde_json::to_string_pretty(&dump).unwrap();
    assert!(!text.contains("secret\""), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn workloads_and_services_are_as_tools_decode_them() {
    let Dump { workloads, services, policies, staged_services, static_config, .. } = decoded();
    let [w] = &workloads[..] else { panic!("{workloads:?}") };
    assert_eq!((&*w.uid, &*w.name, &*w.namespace), (UID, "web-7f", "shop"));
    assert_eq!((&*w.protocol, &*w.network_mode, &*w.status), ("HBONE", "HostNetwork", "Unhealthy"));
    assert_eq!((&*w.workload_name, &*w.workload_type), ("web", "deployment"));
    assert_eq!((&*w.canonical_name, &*w.canonical_revision), ("web", "v1"));
    assert_eq!((&*w.trust_domain, &*w.service_account), ("cluster.local", "web"));
    assert_eq!((&*w.network, &*w.node, &*w.cluster_id), ("n1", "n1", "Kubernetes"));
    assert_eq!((w.capacity, w.native_tunnel), (3, true));
    assert_eq!(w.waypoint.as_ref().unwrap().destination, "shop/waypoint.shop.svc");
    let gateway = Hop { destination: "/10.0.0.9".into(), hbone_mtls_port: 15010 };
    assert_eq!(w.network_gateway.as_ref(), Some(&gateway));
    assert_eq!(json!(w.application_tunnel), json!({ "protocol": "PROXY", "port": null }));
    assert_eq!(json!(w.locality), json!({ "region": "r", "zone": "z", "subzone": "" }));
    assert_eq!((&*w.services[0], &*w.workload_ips[0]), ("shop/web.shop.svc", "10.244.1.7"));
    assert_eq!(w.authorization_policies, ["shop/allow"]);
    let [s] = &services[..] else { panic!("{services:?}") };
    assert_eq!((&*s.name, &*s.namespace, &*s.hostname), ("web", "shop", "web.shop.svc"));
    assert_eq!((&*s.vips[0], s.ports["80"]), ("/10.96.0.1", 8080));
    assert_eq!(json!(s.cidr_vips), json!([{ "network": "n1", "cidr": "10.97.0.0/24" }]));
    let endpoint = &s.endpoints[UID];
    assert_eq!((&*endpoint.workload_uid, &*endpoint.status), (UID, "Unhealthy"));
    assert_eq!(json!(endpoint.port), json!({ "80": 8080, "81": 9090 }));
    assert_eq!((&*s.subject_alt_names[0], s.waypoint.hbone_mtls_port), (ID, 15008));
    let weighted = &s.weighted_waypoints[0];
    assert_eq!((&*weighted.destination.destination, weighted.weight), ("shop/canary.shop.svc", 10));
    let Balancer { routing_preferences, mode, health_policy } = &s.load_balancer;
    assert_eq!(*routing_preferences, ["Network", "Zone"]);
    assert_eq!((&**mode, &**health_policy), ("Failover", "AllowAll"));
    assert_eq!((&*s.ip_families, s.canonical, &*s.visibility), ("Dual", true, "Namespace"));
    assert!(policies.is_empty() && staged_services.is_empty() && static_config.len() == 3);
}

#[test]
fn certificates_pods_and_settings_are_as_tools_decode_them() {
    let Dump { certificates, config, version, workload_state, .. } = decoded();
    let [db, web] = &certificates[..] else { panic!("one of each identity: {certificates:?}") };
    assert!(db.identity < web.identity && db.cert_chain.is_empty() && db.root_certs.is_empty());
    assert_eq!((&*web.state, &*web.cert_chain[0].serial_number), ("Available", "256"));
    let OneCertificate { pem, valid_from, expiration_time, .. } = &web.root_certs[0];
    use base64::{Engine, engine::general_purpose::STANDARD};
    assert!(STANDARD.decode(pem).unwrap().starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert!(valid_from.ends_with('Z') && expiration_time.len() == 20, "{expiration_time}");
    let up = &workload_state["u1"];
    assert_eq!((&*up.state, &*up.info["serviceAccount"]), ("Up", "web"));
    let PodConnections { inbound, outbound } = up.connections.as_ref().unwrap();
    let PodConnection { src, original_dst, actual_dst, protocol } = &outbound[0];
    assert_eq!((src.port(), original_dst.as_deref()), (4711, Some("10.96.0.1:80")));
    assert_eq!((actual_dst.port(), &**protocol), (15008, "HBONE"));
    assert_eq!(inbound[0].original_dst.as_deref(), Some("web.shop.svc"));
    let pending = &workload_state["u2"];
    assert!(pending.state == "Pending" && pending.connections.is_none());
    assert_eq!((config.num_worker_threads, config.window_size), (2, 65_536));
    assert_eq!((config.secret_ttl.secs, config.self_termination_deadline.secs), (86_400, 5));
    assert_eq!((config.pool_unused_release_timeout.secs, config.secret_ttl.nanos), (300, 0));
    assert_eq!(
        (config.admin_addr.localhost, config.dns_proxy_addr.localhost.1),
        ((true, 15000), 15053)
    );
    assert_eq!(
        (&*config.stats_addr["SocketAddr"], &*config.inbound_addr),
        ("[::]:15020", "[::]:15008")
    );
    assert_eq!(
        (&*config.xds_address, &*config.ca_address),
        ("https://istiod:1", "https://localhost:15012")
    );
    assert!(config.ca_root_cert["File"].ends_with("root-cert.pem"));
    assert_eq!((config.local_node.as_deref(), &*config.proxy_mode), (Some("n1"), "Shared"));
    assert_eq!((&*config.proxy_args, config.packet_mark), ("proxy ztunnel", 1337));
    assert!(config.proxy && config.dns_proxy && config.proxy_metadata.is_empty());
    assert_eq!(
        (config.illegal_ports.len(), &*config.inpod_uds),
        (4, "/var/run/ztunnel/ztunnel.sock")
    );
    assert_eq!(version["istioVersion"], "1.31.0");
}
