//! What is logged and counted of peers.

use std::sync::Arc;

use adit::{
    config::{check_standalone, load_bans, load_policies},
    credentials::store::CredentialStore,
    net::Listening,
    observe::Telemetry,
    policy::AccessControl,
    roles::standalone::Service,
};

use super::world::{Backend, Proxy, World, free_port};

#[test]
fn the_access_log_is_json_if_the_file_says_so() {
    let world = World::new();
    world.sign("web", "web", Some("spiffe://td/ns/shop/sa/web"));
    let db = Backend::start("db");
    let port = free_port();
    let server = world.server("s", port, db.addr, "allow: { trustDomains: [td] }");
    let mut adit = Proxy::start(&world, &format!("{server}accessLog: {{ format: json }}\n"));
    let mut call = world.call("web", port).unwrap();
    call.echo("x").unwrap();
    drop(call);
    let line: serde_json::Value = serde_json::from_str(&adit.wait("direction")).unwrap();
    let text = line.to_string();
    for has in ["spiffe://td/ns/shop/sa/web", "\"policy\":\"trust-domain\"", "TLSv1", "inbound"] {
        assert!(text.contains(has), "{has}: {text}");
    }
}

#[test]
fn or_if_a_flag_says_so() {
    let world = World::new();
    world.sign("web", "web", None);
    let db = Backend::start("db");
    let port = free_port();
    let (listen, target) = (format!("127.0.0.1:{port}"), db.addr.to_string());
    let [crt, key, ca] = ["server.crt", "server.key", "ca.crt"].map(|f| world.file(f));
    let mut args = vec!["server", "--listen", &listen, "--target", &target, "--allow-cn", "web"];
    args.extend(["--cert", crt.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    args.extend(["--cacert", ca.to_str().unwrap(), "--log-format", "json"]);
    let mut adit = Proxy::with(&args, &crt);
    adit.wait("listening");
    world.sign("other", "other", None);
    assert!(world.call("other", port).is_err());
    let line: serde_json::Value = serde_json::from_str(&adit.wait("direction")).unwrap();
    let text = line.to_string();
    for has in ["\"level\":\"ERROR\"", "policy_denied", "CN=other matches no rule"] {
        assert!(text.contains(has), "{has}: {text}");
    }
}

#[tokio::test]
async fn each_peer_has_its_series_and_each_target_its_own() {
    let world = Arc::new(World::new());
    world.sign("web", "web", Some("spiffe://td/ns/shop/sa/web"));
    world.sign("cn", "cn", None);
    let db = Backend::start("db");
    let port = free_port();
    let dead = free_port();
    let yaml = world.server("s", port, db.addr, "allow: { all: true }").replace(
        &format!("target: '{}'", db.addr),
        &format!("targets: ['127.0.0.1:{dead}', '{}']", db.addr),
    );
    let file = check_standalone("f", &format!("services:\n{yaml}")).unwrap();
    let mut config = file.services.into_iter().next().unwrap();
    config.health = None; // callers find out who is dead
    let telemetry = Telemetry::new().unwrap();
    let store = CredentialStore::open(config.credentials.clone()).await.unwrap();
    let listening = Listening::open(&config.listen, "").unwrap();
    let access = AccessControl::open(config.admits(), load_policies, load_bans).unwrap();
    let service = Service::new(config, access, store, telemetry.clone()).unwrap();
    service.start(&listening, &[tokio::runtime::Handle::current()]).await.unwrap();
    let calling = Arc::clone(&world);
    tokio::task::spawn_blocking(move || {
        for name in ["web", "web", "cn"] {
            calling.call(name, port).unwrap().echo("x").unwrap();
        }
    })
    .await
    .unwrap();
    service.drain(std::time::Duration::from_secs(5)).await;
    let text = telemetry.metrics.render(&telemetry.live);
    let count = |name: &str, labels: &[&str]| {
        let all =
            text.lines().filter(|l| l.starts_with(name) && labels.iter().all(|x| l.contains(x)));
        all.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    let opened = "istio_tcp_connections_opened_total";
    let web = "source_principal=\"spiffe://td/ns/shop/sa/web\"";
    let ours = "destination_principal=\"spiffe://td/ns/prod/sa/server\"";
    assert_eq!(
        count(opened, &[web, "destination_workload=\"s\"", ours, "mutual_tls"]),
        2,
        "{text}"
    );
    assert_eq!(count(opened, &["source_principal=\"unknown\""]), 1, "no SPIFFE ID, no principal");
    assert_eq!(count("istio_tcp_connections_closed_total", &[web]), 2);
    let connects = "adit_target_connects_total";
    let (live, dead) = (format!("target=\"{}\"", db.addr), format!("target=\"127.0.0.1:{dead}\""));
    assert_eq!(count(connects, &[&live, "result=\"connected\""]), 3, "{text}");
    assert_eq!(count(connects, &[&dead, "result=\"failed\""]), 1, "then it is left out");
    assert_eq!(count("adit_target_up", &[&live]), 1);
    assert_eq!(count("adit_target_up", &[&dead]), 0);
}

#[tokio::test]
async fn tls_without_a_certificate_of_the_caller_is_not_called_mutual() {
    let world = Arc::new(World::new());
    world.sign("web", "web", None);
    let db = Backend::start("db");
    let port = free_port();
    let yaml = world.server("s", port, db.addr, "authentication: disabled");
    let file = check_standalone("f", &format!("services:\n{yaml}")).unwrap();
    let config = file.services.into_iter().next().unwrap();
    let telemetry = Telemetry::new().unwrap();
    let store = CredentialStore::open(config.credentials.clone()).await.unwrap();
    let listening = Listening::open(&config.listen, "").unwrap();
    let access = AccessControl::open(config.admits(), load_policies, load_bans).unwrap();
    let service = Service::new(config, access, store, telemetry.clone()).unwrap();
    service.start(&listening, &[tokio::runtime::Handle::current()]).await.unwrap();
    let calling = Arc::clone(&world);
    let called = move || calling.call("web", port).map(drop);
    tokio::task::spawn_blocking(called).await.unwrap().unwrap();
    service.drain(std::time::Duration::from_secs(5)).await;
    let text = telemetry.metrics.render(&telemetry.live);
    let opened = text.lines().find(|l| l.starts_with("istio_tcp_connections_opened")).unwrap();
    assert!(opened.contains("connection_security_policy=\"tls\""), "{opened}");
}
