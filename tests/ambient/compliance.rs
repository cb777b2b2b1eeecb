//! `COMPLIANCE_POLICY=pqc`: keys that a quantum computer finds out are agreed on with nobody.

use std::{mem::take, sync::Arc};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::{
    forge::{TrustAnybody, block_on, uncaptured},
    harness::Test,
    lab::Lab,
    world::World,
};

pub(crate) const TESTS: &[Test] = &[(
    "compliance::a_node_that_must_be_safe_from_quantum_computers_speaks_to_no_older_client",
    post_quantum,
)];

fn post_quantum() {
    let mut world = World::new();
    world.second = take(&mut world.second).with("COMPLIANCE_POLICY", "pqc");
    world.runs();
    world.second.says_of_readiness(&world.lab, "200 OK");
    world.answered("web", "10.96.0.3:80");
    let record = world.second.record("a call", |record| record["direction"] == "inbound");
    assert_eq!(record["tls.group"], "X25519MLKEM768", "{record}");
    assert_eq!(world.second.dump(&world.lab)["config"]["compliancePolicy"], "pqc");
    assert_eq!(offers_x25519(&world.lab, "10.77.0.2:15008"), Ok(()), "the other node takes it");
    let refused = offers_x25519(&world.lab, "10.77.0.3:15008").unwrap_err();
    assert!(refused.contains("HandshakeFailure"), "{refused}");
}

/// A handshake of a client that knows this one group.
fn offers_x25519(lab: &Lab, to: &str) -> Result<(), String> {
    let socket = uncaptured(lab, to);
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    socket.set_nonblocking(true).unwrap();
    block_on(async {
        let tcp = tokio::net::TcpStream::from_std(socket).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tls = connector.connect("adit.test".try_into().unwrap(), tcp).await;
        tls.map(drop).map_err(|e| e.to_string())
    })
}
