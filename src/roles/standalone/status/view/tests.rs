use serde_json::json;

use super::*;

#[test]
fn the_json_of_the_status() {
    let certificate = CertificateView {
        subject: Some("CN=a".into()),
        spiffe_id: None,
        source: "file a.crt".into(),
        not_after: Some("2030-01-01T00:00:00Z".into()),
        expired: false,
        taken_back: None,
    };
    let service = ServiceView {
        name: "a".into(),
        role: "server",
        listen_address: "127.0.0.1:1".into(),
        targets: vec!["127.0.0.1:2".into()],
        backend_ok: true,
        backend_error: None,
        accepting: true,
        open_connections: 3,
        certificate,
        last_reload_error: None,
    };
    let mut status = StatusView {
        ok: true,
        status: "ok",
        listen_address: "127.0.0.1:1".into(),
        forward_address: "127.0.0.1:2".into(),
        backend_ok: true,
        backend_status: "ok",
        backend_error: None,
        time: "2026-01-01T00:00:00Z".into(),
        last_reload: None,
        config: ConfigView::of(None),
        hostname: "here".into(),
        message: "listening",
        revision: "1",
        compiler: "rustc",
        tls: ChoicesView { aead: Vec::new() },
        services: vec![service],
        draining: None,
    };
    let mut expected = json!({
        "ok": true,
        "status": "ok",
        "listen_address": "127.0.0.1:1",
        "forward_address": "127.0.0.1:2",
        "backend_ok": true,
        "backend_status": "ok",
        "time": "2026-01-01T00:00:00Z",
        "last_reload": null,
        "config": { "state": "current" },
        "hostname": "here",
        "message": "listening",
        "revision": "1",
        "compiler": "rustc",
        "tls": { "aead": [] },
        "services": [{
            "name": "a",
            "role": "server",
            "listen_address": "127.0.0.1:1",
            "targets": ["127.0.0.1:2"],
            "backend_ok": true,
            "backend_error": null,
            "accepting": true,
            "open_connections": 3,
            "certificate": {
                "subject": "CN=a",
                "spiffe_id": null,
                "source": "file a.crt",
                "not_after": "2030-01-01T00:00:00Z",
                "expired": false,
                "taken_back": null,
            },
            "last_reload_error": null,
        }],
    });
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);
    let holder = HolderView {
        service: Some("a".into()),
        peer: "192.0.2.1:9".parse().unwrap(),
        identity: Some("spiffe://td/x".into()),
        to: None,
        age_seconds: 1.5,
        bytes_received: 1,
        bytes_sent: 2,
    };
    let since = "2026-01-01T00:00:00Z".to_owned();
    status.draining =
        Some(DrainingView { since, connections: 4, not_listed: 3, held_by: vec![holder] });
    status.backend_error = Some("no".into());
    expected["backend_error"] = json!("no");
    expected["draining"] = json!({
        "since": "2026-01-01T00:00:00Z",
        "connections": 4,
        "not_listed": 3,
        "held_by": [{
            "service": "a",
            "peer": "192.0.2.1:9",
            "identity": "spiffe://td/x",
            "to": null,
            "age_seconds": 1.5,
            "bytes_received": 1,
            "bytes_sent": 2,
        }],
    });
    assert_eq!(serde_json::to_value(&status).unwrap(), expected);
}
