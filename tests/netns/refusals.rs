//! What is refused, each with its own reason.

use std::io::Read as _;

use crate::lab::Lab;
use crate::mesh::{MESH, PODS, lab, still_answers};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("refusals::policy", policy),
    ("refusals::plaintext_while_strict_and_permissive", plaintext),
    ("refusals::open_plaintext_is_held_to_new_policies", plaintext_policies),
    ("refusals::direct_calls_to_our_own_ports", direct),
    ("refusals::a_service_without_endpoint_or_port", no_endpoint),
    ("refusals::tls_without_a_certificate", no_certificate),
];

fn policy() {
    let lab = lab(&["web"]);
    assert!(lab.ask("spy", "10.96.0.10:80").is_err());
    let record = lab.record("inbound", "policy_denied");
    let error = record["error"].as_str().unwrap();
    let (name, why) = error.split_once("mesh.yaml:").expect("the line of the rule");
    assert!(name.contains("closest: shop/db-callers rule 0 ("), "{error}");
    assert!(why.contains("): principal cluster.local/ns/shop/sa/spy is not one of"), "{error}");
    assert!(lab.record("outbound", "peer_denied")["error"].as_str().unwrap().contains("401"));
}

/// `web` is outside the mesh here, so its calls arrive as plaintext.
fn plaintext() {
    let outside = MESH.replace("netns: web }", "netns: web, protocol: tcp }");
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&outside);
    assert!(lab.ask("web", "10.77.0.2:8080").is_err());
    lab.record("inbound", "plaintext_refused");
    lab.write_mesh(&format!("mtls: permissive\n{outside}"));
    lab.wait("permissive", || lab.log().contains("configuration reloaded"));
    assert_eq!(lab.ask("web", "10.77.0.2:8080").unwrap(), "caller 10.77.0.1\nhello\n");
}

/// Callers without identity have an address; who is admitted by it may lose that.
fn plaintext_policies() {
    let outside = ["web", "spy"].into_iter().fold(MESH.to_owned(), |mesh, pod| {
        mesh.replace(&format!("netns: {pod} }}"), &format!("netns: {pod}, protocol: tcp }}"))
    });
    let admitting = |mode: &str, last: &str| {
        format!(
            "mtls: {mode}\n{outside}policies:
- metadata: {{ name: db-callers, namespace: shop }}
  spec:
    selector: {{ matchLabels: {{ app: db }} }}
    rules:
    - from: [{{ source: {{ ipBlocks: [10.77.0.3, {last}] }} }}]
"
        )
    };
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&admitting("permissive", "10.77.0.1"));
    let [mut web, mut spy] = ["web", "spy"].map(|pod| {
        let mut socket = lab.connect(pod, "10.77.0.2:8080").unwrap();
        socket.read_exact(&mut [0; 17]).unwrap();
        socket
    });
    assert!(lab.ask("spy", "[fd77::2]:8080").is_err(), "its other address is not admitted");
    let denied = lab.record("inbound", "policy_denied");
    assert!(denied["src.addr"].as_str().unwrap().starts_with("[fd77::3]:"), "{denied}");
    lab.write_mesh(&admitting("permissive", "10.99.0.1"));
    let record = lab.record("inbound", "policy_changed");
    assert!(record["src.addr"].as_str().unwrap().starts_with("10.77.0.1:"), "{record}");
    assert!(!still_answers(&mut web) && still_answers(&mut spy));
    lab.write_mesh(&admitting("strict", "10.99.0.1"));
    lab.wait("both", || lab.records("inbound", "policy_changed").len() == 2);
    assert!(!still_answers(&mut spy));
}

fn direct() {
    let lab = lab(&["web"]);
    for to in ["127.0.0.1:15001", "10.77.0.1:15001", "127.0.0.1:15006", "10.77.0.1:15006"] {
        assert!(lab.ask("web", to).map_or(true, |answer| answer.is_empty()), "{to}");
    }
    lab.record("outbound", "direct_call");
    lab.record("inbound", "direct_call");
    // Captured and carried to the other node, which refuses its own ports.
    assert!(lab.ask("web", "10.77.0.2:15006").is_err());
    lab.wait("three", || lab.records("inbound", "direct_call").len() >= 3);
    // HBONE's port answers TLS only.
    assert!(lab.ask("web", "10.77.0.1:15008").map_or(true, |answer| !answer.contains("caller")));
    lab.record("inbound", "tls_failure");
}

fn no_endpoint() {
    let lab = lab(&["web"]);
    assert!(lab.ask("web", "10.96.0.11:80").is_err());
    assert!(lab.ask("web", "10.96.0.10:81").is_err());
    lab.wait("two", || lab.records("outbound", "no_healthy_upstream").len() == 2);
}

fn no_certificate() {
    let lab = lab(&["web"]);
    let tls = "timeout 5 openssl s_client -connect 127.0.0.1:15008 -alpn h2 -tls1_3 -quiet";
    lab.tool("db", tls);
    lab.record("inbound", "no_peer_certificate");
}
