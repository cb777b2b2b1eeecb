mod decoded;

use serde_json::{Value, json};

use super::*;
use crate::config;

const MESH: &str = "
trustDomain: td.test
ca: { files: { dir: /nowhere } }
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.77.0.1], netns: web, labels: { app: web } }
services:
- { hostname: web.shop.svc.cluster.local, addresses: [10.96.0.10], ports: [{ port: 80, targetPort: 8080 }], workloads: [shop/web] }
policies:
- metadata: { name: callers, namespace: shop }
  spec:
    action: DENY
    rules:
    - from: [{ source: { principals: [td.test/ns/shop/sa/db] } }]
      to: [{ operation: { ports: ['80'] } }]
";

fn status() -> SvidStatus {
    SvidStatus {
        workload: "shop/web".into(),
        identity: "spiffe://td.test/ns/shop/sa/web".into(),
        state: "Available".into(),
        source: "embedded",
        serial_number: Some("1f".into()),
        valid_from: Some("2026-01-01T00:00:00Z".into()),
        expiration_time: Some("2026-01-01T01:00:00Z".into()),
        seconds_left: Some(60),
        last_success: Some("2026-01-01T00:00:00Z".into()),
        next_attempt: None,
        last_error: None,
    }
}

fn status_json() -> Value {
    json!({
        "workload": "shop/web",
        "identity": "spiffe://td.test/ns/shop/sa/web",
        "state": "Available",
        "source": "embedded",
        "serialNumber": "1f",
        "validFrom": "2026-01-01T00:00:00Z",
        "expirationTime": "2026-01-01T01:00:00Z",
        "secondsLeft": 60,
        "lastSuccess": "2026-01-01T00:00:00Z",
        "nextAttempt": null,
        "lastError": null,
    })
}

#[test]
fn the_json_of_certs() {
    let certs = CertsView {
        source: "embedded",
        outage_budget_seconds: Some(60),
        first_to_expire: Some("spiffe://td.test/ns/shop/sa/web".into()),
        without_valid_svid: vec!["no valid SVID for spiffe://td.test/x: none yet".into()],
        certificates: vec![status()],
    };
    let expected = json!({
        "source": "embedded",
        "outageBudgetSeconds": 60,
        "firstToExpire": "spiffe://td.test/ns/shop/sa/web",
        "withoutValidSvid": ["no valid SVID for spiffe://td.test/x: none yet"],
        "certificates": [status_json()],
    });
    assert_eq!(serde_json::to_value(certs).unwrap(), expected);
}

#[test]
fn the_json_of_the_config_dump() {
    let mesh = config::parse("mesh.yaml", MESH).unwrap().mesh.store().view().dump();
    let certificate =
        CertificateView { status: status(), cert_chain: Vec::new(), root_certs: Vec::new() };
    let dump = ConfigDump {
        mesh,
        staged_services: BTreeMap::new(),
        static_config: StaticConfig::default(),
        certificates: vec![certificate],
        config: json!(ConfigView::Current),
        tls: ChoicesView { aead: Vec::new() },
        version: BuildInfo::with_istio(None),
        workload_state: None,
        pod_faults: Vec::new(),
        non_tcp: Vec::new(),
        ejected_endpoints: Vec::new(),
        control_plane: None,
    };
    let mut certificate = status_json();
    certificate["certChain"] = json!([]);
    certificate["rootCerts"] = json!([]);
    let expected = json!({
        "workloads": [{
            "uid": "shop/web",
            "workloadIps": ["10.77.0.1"],
            "name": "web",
            "namespace": "shop",
            "serviceAccount": "web",
            "trustDomain": "td.test",
            "identity": "spiffe://td.test/ns/shop/sa/web",
            "protocol": "HBONE",
            "networkMode": "Standard",
            "workloadType": "deployment",
            "canonicalName": "web",
            "clusterId": "",
            "capacity": 1,
            "node": null,
            "labels": { "app": "web" },
            "services": ["shop/web.shop.svc.cluster.local"],
            "status": "Healthy",
        }],
        "services": [{
            "name": "web",
            "namespace": "shop",
            "hostname": "web.shop.svc.cluster.local",
            "vips": ["/10.96.0.10"],
            "ports": { "80": 8080 },
            "endpoints": {
                "shop/web": {
                    "workloadUid": "shop/web",
                    "port": { "80": 8080 },
                    "status": "Healthy",
                },
            },
            "subjectAltNames": [],
            "canonical": false,
            "visibility": "Public",
        }],
        "policies": [{
            "name": "callers",
            "namespace": "shop",
            "scope": "Namespace",
            "action": "Deny",
            "rules": [[
                [{ "principals": [{ "Exact": "td.test/ns/shop/sa/db" }] }],
                [{ "destinationPorts": [80] }],
            ]],
            "dryRun": false,
            "places": ["mesh.yaml:13"],
        }],
        "trustDomain": "td.test",
        "mtls": "strict",
        "stagedServices": {},
        "staticConfig": { "workloads": [], "policies": [], "services": [] },
        "certificates": [certificate],
        "config": { "state": "current" },
        "tls": { "aead": [] },
        "version": BuildInfo::with_istio(None),
    });
    assert_eq!(serde_json::to_value(dump).unwrap(), expected);
}
