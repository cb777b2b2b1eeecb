//! A node whose SVIDs come from `adit ca serve`, by its service-account token.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::json;

use crate::{
    lab::Lab,
    mesh::{PODS, allow},
    process::{Adit, command_of},
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("ca_server::a_node_gets_its_svids_from_another_adit_and_carries_traffic", carried)];

const CA: &str = "
listen: 127.0.0.1:15012
trustDomain: cluster.local
dir: DIR/ca
serverNames: [ca.test]
svidLifetime: 10s
attestors:
  kubernetes: { issuer: 'https://kubernetes.test', jwks: DIR/jwks, trustedNodeAccounts: [sys/adit], pods: DIR/pods }
";

/// The tokens of the node proxies' pods, in a file for each node, and the key that proves them.
pub(crate) fn write_tokens(lab: &Lab, nodes: &[&str]) {
    let key = KeyPair::generate().unwrap();
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    jwk.common.key_id = Some("k".into());
    fs::write(lab.file("jwks"), json!({ "keys": [jwk] }).to_string()).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k".into());
    for node in nodes {
        let claims = json!({
            "iss": "https://kubernetes.test", "aud": ["istio-ca"], "iat": now, "exp": now + 600,
            "sub": "system:serviceaccount:sys:adit",
            "kubernetes.io": {
                "namespace": "sys", "serviceaccount": { "name": "adit" },
                "pod": { "name": format!("adit-{node}"), "uid": node }, "node": { "name": node },
            },
        });
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        fs::write(lab.file(&format!("token-{node}")), token).unwrap();
    }
}

/// The section `ca` of a node that asks this server.
pub(crate) fn asks(lab: &Lab, node: &str) -> String {
    format!(
        "{{ istiod: {{ address: 'https://127.0.0.1:15012', serverName: ca.test, token: {}, \
         roots: {}, svidLifetime: 10s }} }}",
        lab.file(&format!("token-{node}")).display(),
        lab.file("ca/bundle.pem").display()
    )
}

pub(crate) fn start_ca(lab: &Lab) -> Adit {
    let text = CA.replace("DIR", &lab.dir.path().display().to_string());
    fs::write(lab.file("ca.yaml"), text).unwrap();
    let file = lab.file("ca.yaml");
    let mut adit = command_of(["ca".as_ref(), "serve".as_ref(), "-c".as_ref(), file.as_os_str()]);
    adit::sys::process::die_with_parent(&mut adit);
    let server = Adit::launch(adit);
    server.logs("serving");
    server
}

fn carried() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    write_tokens(&lab, &["n1"]);
    // The spy is on another node: this one does not get its identity.
    let pods = "pods:
- { namespace: shop, serviceAccount: web, node: n1, name: web, uid: w }
- { namespace: shop, serviceAccount: db, node: n1, name: db, uid: d }
- { namespace: shop, serviceAccount: spy, node: n2, name: spy, uid: s }
";
    fs::write(lab.file("pods"), pods).unwrap();
    let _ca = start_ca(&lab);
    lab.ca = Some(asks(&lab, "n1"));
    lab.launch(&allow(&["web"]));
    // Not ready as long as a pod has no identity, and it says which.
    lab.wait("all but one identity there", || {
        let certs = lab.admin("127.0.0.1:15000", "GET /certs");
        certs.matches("\"state\": \"Available\"").count() == 2 && lab.readiness().contains("spy")
    });
    assert_eq!(lab.ask("web", "10.96.0.10:80").unwrap(), "caller 10.77.0.1\nhello\n");
    let record = lab.record("inbound", "completed");
    assert_eq!(record["src.identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert!(lab.ask("spy", "10.96.0.10:80").is_err());
    let refuses = "refuses spiffe://cluster.local/ns/shop/sa/spy";
    let certs = lab.shows("127.0.0.1:15000", "GET /certs", refuses);
    assert!(certs.contains("\"source\": \"istiod\""), "{certs}");
    // Past the end of the first SVIDs, calls go on with those that renewed them.
    let start = SystemTime::now();
    let mut calls = 0;
    while start.elapsed().unwrap() < Duration::from_secs(12) {
        assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "{}", lab.log());
        calls += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{calls} calls across the life of an SVID, none failed");
}
