use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    net::{Direction, PeerAddr, PodName},
    observe::{
        Telemetry,
        conn::{Names, OpenConn, PeerInfo, TlsFacts, TunnelId},
    },
};

fn open(telemetry: &Telemetry) -> OpenConn {
    let peer = PeerAddr("10.0.0.9:999".parse().unwrap());
    OpenConn::open(telemetry, Direction::Inbound, peer)
}

async fn next(subscription: &mut Subscription) -> Arc<ConnectionEvent> {
    match tokio::time::timeout(Duration::from_secs(10), subscription.next()).await {
        Ok(Some(Notification::Event(event))) => event,
        other => panic!("no event: {other:?}"),
    }
}

#[tokio::test]
async fn each_connection_is_opened_and_closed_or_denied() {
    let telemetry = Telemetry::new().unwrap();
    open(&telemetry).close(CloseReason::Completed);
    let mut subscription = telemetry.live.events().subscribe().unwrap();
    let flows = open(&telemetry);
    flows.count_opened();
    flows.live().meter.down.fetch_add(7, Relaxed);
    flows.close(CloseReason::Completed);
    open(&telemetry).fail(CloseReason::PolicyDenied, "no rule");
    open(&telemetry).fail(CloseReason::UntrustedSvid, "another root");
    open(&telemetry).close(CloseReason::ConnectFailure);
    let mut kinds = Vec::new();
    for _ in 0..5 {
        let event = next(&mut subscription).await;
        kinds.push((event.connection.id, event.event, event.reason));
        assert_eq!(event.reason.is_none(), event.event == EventKind::Opened);
        if event.event == EventKind::Closed && event.connection.id == 1 {
            assert_eq!(event.connection.bytes_received, 7, "to the last byte");
        }
    }
    assert_eq!(
        kinds,
        [
            (1, EventKind::Opened, None),
            (1, EventKind::Closed, Some("completed")),
            (2, EventKind::Denied, Some("policy_denied")),
            (3, EventKind::Denied, Some("untrusted_svid")),
            (4, EventKind::Closed, Some("connect_failure")),
        ]
    );
}

#[tokio::test]
async fn who_is_slow_is_told_how_many_are_lost_and_holds_nobody_up() {
    let telemetry = Telemetry::new().unwrap();
    let mut slow = telemetry.live.events().subscribe().unwrap();
    for _ in 0..KEPT + 10 {
        open(&telemetry).close(CloseReason::Completed);
    }
    assert!(matches!(slow.next().await, Some(Notification::Lost(10))));
    assert_eq!(next(&mut slow).await.connection.id, 10, "then the oldest that is kept");
}

#[test]
fn so_many_may_listen_and_without_them_nothing_is_kept() {
    let events = Arc::new(Events::default());
    let mut listening: Vec<_> =
        (0..MOST_SUBSCRIBERS).map(|_| events.subscribe().unwrap()).collect();
    assert!(events.subscribe().is_none());
    listening.pop();
    listening.push(events.subscribe().unwrap());
    drop(listening);
    assert!(events.lock().is_none());
    events.publish(|| unreachable!("nobody listens"));
}

/// An interface: a field may come, none goes or changes its name.
#[tokio::test]
async fn the_json_of_events_and_of_connections() {
    let telemetry = Telemetry::new().unwrap();
    let mut subscription = telemetry.live.events().subscribe().unwrap();
    let (conn, tunnel) = (open(&telemetry), TunnelId::next());
    conn.metadata(|f| {
        let names = Names::of("web".into(), "shop".into());
        let id = Some("spiffe://td/ns/shop/sa/web".parse().unwrap());
        f.src = PeerInfo { names: Some(Arc::new(names)), id };
        f.dst_addr = Some("10.0.0.7:15008".parse().unwrap());
        f.hbone_addr = Some("10.0.0.7:80".into());
        f.tunnel = Some(tunnel);
        f.service = Some("db.shop.svc.cluster.local".into());
        let (version, group) = ("TLSv1.3", "X25519MLKEM768");
        let cipher = "TLS_AES_256_GCM_SHA384";
        f.tls = Some(Arc::new(TlsFacts { version, group, cipher, mutual: true, path: None }));
        f.policy = Some("shop/only-web rule 0".into());
        f.protocol = Some("HBONE");
        f.pod = Some(Arc::new(PodName {
            uid: "pod/430dc9".into(),
            name: "shop/db".into(),
            service_account: None,
        }));
    });
    let mut connection = json!({
        "id": 0,
        "direction": "inbound",
        "src": "10.0.0.9:999",
        "dst": "10.0.0.7:15008",
        "hboneAddr": "10.0.0.7:80",
        "tunnel": tunnel.get(),
        "protocol": "HBONE",
        "service": "db.shop.svc.cluster.local",
        "source": {
            "workload": "web",
            "namespace": "shop",
            "identity": "spiffe://td/ns/shop/sa/web",
        },
        "destination": { "workload": null, "namespace": null, "identity": null },
        "tls": {
            "version": "TLSv1.3",
            "group": "X25519MLKEM768",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "mutual": true,
        },
        "policy": "shop/only-web rule 0",
        "localWorkload": "shop/db",
        "bytesReceived": 0,
        "bytesSent": 0,
        "ageSeconds": 0,
    });
    let mut listed = serde_json::to_value(telemetry.live.views()).unwrap();
    assert!(listed[0]["ageSeconds"].take().as_f64().is_some());
    connection["ageSeconds"] = Value::Null;
    assert_eq!(listed, json!([connection]));
    conn.fail(CloseReason::PolicyChanged, "no more");
    let mut event = serde_json::to_value(&*next(&mut subscription).await).unwrap();
    assert!(event["time"].take().as_str().unwrap().ends_with('Z'));
    event["connection"]["ageSeconds"].take();
    let expected = json!({
        "event": "denied",
        "time": null,
        "connection": connection,
        "reason": "policy_changed",
        "error": "no more",
    });
    assert_eq!(event, expected);
}
