//! What is refused, each with its own reason.

use crate::lab::Lab;
use crate::mesh::{MESH, PODS, lab};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("refusals::policy", policy),
    ("refusals::plaintext_while_strict_and_permissive", plaintext),
    ("refusals::direct_calls_to_our_own_ports", direct),
    ("refusals::a_service_without_endpoint_or_port", no_endpoint),
    ("refusals::tls_without_a_certificate", no_certificate),
];

fn policy() {
    let lab = lab(&["web"]);
    assert!(lab.ask("spy", "10.96.0.10:80").is_err());
    let record = lab.record("inbound", "policy_denied");
    let error = record["error"].as_str().unwrap();
    assert!(
        error.contains(
            "closest: shop/db-callers rule 0: principal cluster.local/ns/shop/sa/spy is not one of"
        ),
        "{error}"
    );
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
