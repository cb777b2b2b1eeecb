//! Variables that change how a node treats its pods: one node has them, the other has none.

use std::{
    io::{ErrorKind, Read as _},
    mem::take,
};

use http::{Method, Request};

use crate::{
    corpus::Forged,
    forge::{block_on, handshake, uncaptured},
    harness::Test,
    resources::{allow, workload},
    world::World,
};

pub(crate) const TESTS: &[Test] = &[
    ("settings::the_callers_address_ipv6_and_baggage_are_kept_from_pods_where_that_is_said", off),
    ("settings::the_policy_that_lets_a_call_in_is_logged_at_once_where_that_is_said", told),
];

/// `far` is of the node that has them.
fn with(variables: &[(&'static str, &'static str)]) -> World {
    let mut world = World::new();
    let second = take(&mut world.second);
    world.second = variables.iter().fold(second, |node, (name, value)| node.with(name, *value));
    world
}

fn off() {
    let mut world = with(&[
        ("ENABLE_ORIG_SRC", "false"),
        ("IPV6_ENABLED", "false"),
        ("ENABLE_RESPONSE_BAGGAGE", "false"),
    ]);
    world.runs();
    let World { lab, .. } = &world;
    assert_eq!(lab.ask("far", "10.96.0.1:80").unwrap(), "caller 10.77.0.3\nhello\n");
    assert_eq!(lab.ask("web", "10.96.0.3:80").unwrap(), "caller 10.77.0.3\nhello\n", "its own");
    assert_eq!(lab.ask("spy", "10.77.0.3:8080").unwrap(), "caller 10.77.0.3\nhello\n");
    for port in [15001, 15006, 15008, 15053] {
        for (pod, address, listens) in
            [("web", "[::1]", true), ("far", "[::1]", false), ("far", "127.0.0.1", true)]
        {
            // Who is refused at once may be reset before it knows that it was connected.
            let connected = match lab.connect(pod, &format!("{address}:{port}")) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            assert_eq!(connected, listens, "{address}:{port} of {pod}");
        }
    }
    let said = baggage(&world, "10.77.0.2").expect("who accepted");
    assert!(said.contains("k8s.pod.name=db"), "{said}");
    assert_eq!(baggage(&world, "10.77.0.3"), None);
    for node in [&world.first, &world.second] {
        assert!(!node.adit().log().contains("ENABLE_ORIG_SRC"), "it is honoured");
    }
}

/// What a pod says of itself in its answer to a CONNECT.
fn baggage(world: &World, pod: &str) -> Option<String> {
    let leaf = world.istiod.leaf_of("web");
    let forged = Forged { key: leaf.key(), chain: leaf.chain };
    let socket = uncaptured(&world.lab, &format!("{pod}:15008"));
    block_on(async {
        let tls = handshake(socket, forged).await.unwrap();
        let (mut send, connection) = h2::client::handshake(tls).await.unwrap();
        let driver = tokio::spawn(connection);
        send = send.ready().await.unwrap();
        let connect = Request::builder().method(Method::CONNECT).uri(format!("{pod}:8080"));
        let (answer, _stream) = send.send_request(connect.body(()).unwrap(), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        driver.abort();
        answer.headers().get("baggage").map(|value| value.to_str().unwrap().to_owned())
    })
}

fn told() {
    let mut world = with(&[("AUTHZ_POLICY_INFO_LOGGING", "true"), ("ENABLE_ORIG_SRC", "true")]);
    world.istiod.says(vec![
        workload("far", "n2", "10.77.0.3", &["callers"]),
        workload("db", "n1", "10.77.0.2", &["callers"]),
        allow("callers", &["web"]),
    ]);
    world.runs();
    world.answered("web", "10.96.0.3:80");
    let mut held = ["10.96.0.3:80", "10.96.0.2:80"].map(|to| {
        let mut call = world.lab.connect("web", to).unwrap();
        call.read_exact(&mut [0; 17]).unwrap();
        call
    });
    let record = world.second.record("a call that is let in", |record| {
        record["message"] == "connection opened" && record["policy"] == "shop/callers rule 0"
    });
    assert_eq!((&record["level"], &record["direction"]), (&"info".into(), &"inbound".into()));
    held.iter_mut().for_each(|call| call.shutdown(std::net::Shutdown::Both).unwrap());
    world.first.record("the end of the other", |record| {
        record["message"] == "connection complete" && record["policy"] == "shop/callers rule 0"
    });
    assert!(!world.first.adit().log().contains("connection opened"), "nobody asked for it there");
}
