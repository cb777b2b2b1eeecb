//! A waypoint of a service or of a pod that is not adit: Envoy, which ends HBONE, looks at the HTTP
//! in it, and sends it on over HBONE of its own.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use adit::rpc::discovery::Resource;

use crate::{
    envoy::Envoy,
    harness::Test,
    lab::Lab,
    resources::{allow, gateway, service_with, uid, workload_with},
    wait::{LIMIT, wait_until},
    wire::Wire,
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("waypoints::calls_of_a_service_go_through_its_waypoint_and_arrive_as_the_waypoint", service),
    ("waypoints::calls_of_a_pod_go_through_its_waypoint", pod),
    ("waypoints::an_answer_that_ends_its_connection_arrives_whole", whole),
    ("waypoints::a_policy_for_the_waypoint_alone_keeps_direct_callers_out", policy),
    ("waypoints::a_waypoint_that_is_gone_or_is_another_is_never_passed_by", gone),
    ("waypoints::what_goes_through_a_waypoint_is_in_clear_text_nowhere", sealed),
];

/// What is asked for in clear text.
const WORD: &str = "GET /clear-text";

/// How many calls a scenario makes, one after the other.
const CALLS: usize = 20;

const SERVICE: &str = "10.96.0.3:80";
const POD: &str = "10.77.0.3:8081";
const NAME: &str = "waypoint.shop.svc.cluster.local";

/// A mesh with a waypoint; what says that it is one of what is up to the scenario.
fn world() -> (World, Envoy) {
    let mut world = World::running();
    let at = service_with("waypoint", "10.96.0.5", |service| {
        service.ports[0].service_port = 15008;
        service.ports[0].target_port = 15008;
    });
    let waypoint = workload_with("waypoint", "n2", "10.77.0.5", |workload| {
        let ports = workload.services.values_mut().flat_map(|list| &mut list.ports);
        ports.for_each(|port| (port.service_port, port.target_port) = (15008, 15008));
        workload.native_tunnel = true;
    });
    world.istiod.says(vec![at, waypoint]);
    serves_http(&world.lab, "far", 8081);
    world.istiod.says(vec![far(|_| {}), of_service(None)]);
    let shows = world.istiod.leaf_of("waypoint");
    let envoy = Envoy::start(&world.lab, "proxy", include_str!("waypoint.yaml.in"), &shows);
    (world, envoy)
}

/// The service of `far`, with its waypoint.
fn of_service(waypoint: Option<&str>) -> Resource {
    service_with("far", "10.96.0.3", |service| service.waypoint = waypoint.and_then(gateway))
}

fn far(change: impl FnOnce(&mut adit::rpc::address::Workload)) -> Resource {
    workload_with("far", "n2", "10.77.0.3", |far| {
        far.services.values_mut().for_each(|list| list.ports[0].target_port = 8081);
        change(far);
    })
}

fn service() {
    let (mut world, envoy) = world();
    // By the name of its service, then by its address.
    for (at, seen) in [(NAME, 0), ("10.96.0.5", CALLS)] {
        world.istiod.says(vec![of_service(Some(at))]);
        for _ in 0..CALLS {
            passed(&world, "web", SERVICE);
        }
        assert_eq!(requests(&envoy), seen + CALLS, "calls through Envoy");
    }
    println!("     {} of {} calls went through Envoy", requests(&envoy), 2 * CALLS);
    // Envoy keeps its connection to `far`.
    drop(envoy);
    let World { first, second, lab, .. } = &world;
    let out = first.record("the call to the waypoint", |record| {
        record["direction"] == "outbound" && record["dst.service"] == far_name()
    });
    assert_eq!(out["dst.addr"], "10.77.0.5:15008", "{out}");
    assert_eq!(out["dst.hbone_addr"], SERVICE, "{out}");
    assert_eq!(out["dst.identity"], id("waypoint"), "{out}");
    let arrived = second.record("the waypoint's call", |record| {
        record["direction"] == "inbound" && record["dst.identity"] == id("far")
    });
    assert_eq!(arrived["src.identity"], id("waypoint"), "{arrived}");
    let log = || fs::read_to_string(lab.file("envoy-access.log")).unwrap_or_default();
    let line = format!("{} {SERVICE} 200", id("web"));
    wait_until("Envoy has seen who calls", LIMIT, || log().lines().any(|said| said == line));
}

fn pod() {
    let (mut world, envoy) = world();
    world.istiod.says(vec![far(|far| far.waypoint = gateway(NAME))]);
    for _ in 0..CALLS {
        passed(&world, "web", POD);
    }
    assert_eq!(requests(&envoy), CALLS, "calls through Envoy");
    println!("     {CALLS} of {CALLS} calls went through Envoy");
    // Who calls the service has the waypoint of the service only.
    assert!(!says(&world, "web", SERVICE).contains("via-waypoint"));
    assert_eq!(requests(&envoy), CALLS, "calls through Envoy");
}

/// Envoy resets its stream behind such an answer, however much of it is not read yet.
fn whole() {
    let (mut world, _envoy) = world();
    world.istiod.says(vec![of_service(Some(NAME))]);
    for size in [0, 1000, 100_000, 1_000_000] {
        let mut call = world.lab.connect("web", SERVICE).unwrap();
        call.set_read_timeout(Some(LIMIT)).unwrap();
        write!(call, "{WORD} HTTP/1.1\r\nhost: far\r\nx-size: {size}\r\nconnection: close\r\n\r\n")
            .unwrap();
        thread::sleep(Duration::from_millis(300)); // and it waits on the way
        let mut answer = Vec::new();
        call.read_to_end(&mut answer).unwrap();
        let body = answer.iter().filter(|byte| **byte == b'#').count();
        assert_eq!(body, size, "of {}", answer.len());
    }
    let record = world.first.record("the call", |record| record["direction"] == "outbound");
    assert_eq!(record["reason"], "completed", "{record}");
}

fn policy() {
    let (mut world, _envoy) = world();
    world.istiod.says(vec![
        allow("from-waypoint", &["waypoint"]),
        of_service(Some(NAME)),
        far(|far| far.authorization_policies = vec!["shop/from-waypoint".into()]),
    ]);
    for pod in ["web", "db"] {
        passed(&world, pod, SERVICE);
        // By its own address, it has no waypoint.
        refused(&world, pod, POD);
    }
    world.istiod.says(vec![allow("from-waypoint", &["web"])]);
    assert!(!says(&world, "web", POD).contains("via-waypoint"));
    let answer = says(&world, "web", SERVICE);
    assert!(answer.starts_with("HTTP/1.1 503"), "what Envoy says of a refusal: {answer}");
}

fn gone() {
    let (mut world, envoy) = world();
    let of_pod = far(|far| far.waypoint = gateway("10.96.0.5"));
    world.istiod.says(vec![of_service(Some(NAME)), of_pod]);
    passed(&world, "web", SERVICE);
    passed(&world, "web", POD);
    drop(envoy);
    let arrived = arrivals(&world);
    for _ in 0..CALLS {
        refused(&world, "web", SERVICE);
        refused(&world, "web", POD);
    }
    // Somebody else at its address, with a good certificate of the mesh.
    let shows = world.istiod.leaf_of("db");
    let envoy = Envoy::start(&world.lab, "proxy", include_str!("waypoint.yaml.in"), &shows);
    refused(&world, "web", SERVICE);
    refused(&world, "web", POD);
    assert_eq!(requests(&envoy), 0, "calls through the other");
    drop(envoy);
    // One that nobody knows, and one whose only endpoint is gone.
    world.istiod.says(vec![of_service(Some("lost.shop.svc.cluster.local"))]);
    refused(&world, "web", SERVICE);
    world.istiod.says(vec![of_service(Some(NAME))]);
    world.istiod.removes(&[&uid("waypoint")]);
    refused(&world, "web", SERVICE);
    refused(&world, "web", POD);
    assert_eq!(arrivals(&world), arrived, "calls that passed it by");
    println!("     0 of {} calls passed the waypoint by", 2 * CALLS + 5);
}

fn sealed() {
    let (mut world, envoy) = world();
    let bridge = world.lab.netns("bridge");
    // At `web`, at `far` and at the waypoint.
    let tapped = || ["v1", "v3", "v5"].map(|port| Wire::tap(&bridge, port, WORD));
    let clear = tapped();
    assert!(says(&world, "spy", POD).contains("200 OK"));
    assert!(clear.map(Wire::saw)[1] > 0, "what is in clear text is seen");
    world.istiod.says(vec![of_service(Some(NAME)), far(|far| far.waypoint = gateway(NAME))]);
    let taps = tapped();
    for _ in 0..CALLS {
        passed(&world, "web", SERVICE);
        passed(&world, "web", POD);
    }
    drop(envoy);
    refused(&world, "web", SERVICE);
    refused(&world, "web", POD);
    let seen = taps.map(Wire::saw);
    assert_eq!(seen, [0; 3], "frames in clear text");
    println!("     0 frames in clear text in {} calls, at 3 places", 2 * CALLS + 2);
}

/// A call that went through the waypoint, and only through it.
#[track_caller]
fn passed(world: &World, pod: &str, to: &str) {
    let answer = says(world, pod, to);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{pod} to {to}: {answer}");
    assert_eq!(answer.matches("via-waypoint: envoy").count(), 1, "{pod} to {to}: {answer}");
    assert!(answer.contains("caller 10.77.0.5"), "{pod} to {to}: {answer}");
}

/// A call that is cut.
#[track_caller]
fn refused(world: &World, pod: &str, to: &str) {
    let error = asks(world, pod, to).expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{pod} to {to}");
}

/// The answer to one request: what the application says that it was asked.
#[track_caller]
fn says(world: &World, pod: &str, to: &str) -> String {
    asks(world, pod, to).unwrap_or_else(|error| panic!("{pod} to {to}: {error}"))
}

fn asks(world: &World, pod: &str, to: &str) -> io::Result<String> {
    let mut call = world.lab.connect(pod, to)?;
    call.set_read_timeout(Some(LIMIT))?;
    write!(call, "{WORD} HTTP/1.1\r\nhost: far\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    call.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How many requests Envoy has had.
fn requests(envoy: &Envoy) -> usize {
    usize::try_from(envoy.counts("http.http.downstream_rq_total")).unwrap()
}

/// How many connections the node of `far` has counted for it.
fn arrivals(world: &World) -> usize {
    let text = world.second.http(&world.lab, 15020, "GET /metrics");
    let opened = text.lines().filter(|line| {
        line.starts_with("istio_tcp_connections_opened_total{")
            && line.contains("reporter=\"destination\"")
    });
    opened.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
}

fn id(pod: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{pod}")
}

fn far_name() -> &'static str {
    "far.shop.svc.cluster.local"
}

/// An application that answers each request with who called, and with the request.
fn serves_http(lab: &Lab, pod: &str, port: u16) {
    let listener = lab.listen(pod, port);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(socket) = socket else { return };
            thread::spawn(move || answers(socket));
        }
    });
}

fn answers(socket: TcpStream) -> Option<()> {
    let caller = socket.peer_addr().ok()?.ip().to_canonical();
    let (mut reader, mut writer) = (BufReader::new(socket.try_clone().ok()?), socket);
    loop {
        let mut asked = format!("caller {caller}\n");
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(1..) if line != "\r\n" => asked += &line,
                Ok(1..) => break,
                _ => return None,
            }
        }
        let size = asked.lines().find_map(|line| line.strip_prefix("x-size: ")?.parse().ok());
        asked += &"#".repeat(size.unwrap_or(0));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", asked.len());
        writer.write_all((head + &asked).as_bytes()).ok()?;
        if asked.contains("connection: close") {
            return Some(());
        }
    }
}
