//! Who gets an SVID.

use std::time::{Duration, SystemTime};

use adit::{
    credentials::{Istiod, Source, SourceError},
    rpc::istio_ca::IstioCertificateRequest,
};
use tonic::Code;

use crate::{
    issuer::{Issuer, claims, jwks},
    raw::{call, csr, for_identity},
    server::{CaServer, fetch, id, told_to_join_again},
    wait::{LIMIT, wait_until_async},
};

#[tokio::test]
async fn a_pod_gets_its_own_identity_and_a_node_proxy_those_of_its_node() {
    let (issuer, kubernetes) = (Issuer::new("k1"), Issuer::rsa("k2"));
    let server = CaServer::start(&[&issuer, &kubernetes]);
    let web = server.client(&issuer.sign(&claims("shop", "web", "web-1", "n1")));
    let svid = fetch(&web, &id("ns/shop/sa/web")).await.unwrap();
    assert_eq!(svid.id, id("ns/shop/sa/web"));
    let left = svid.not_after.duration_since(SystemTime::now()).unwrap();
    assert!((Duration::from_secs(290)..=Duration::from_secs(300)).contains(&left), "{left:?}");
    let bundles = web.bundles().borrow().clone();
    assert_eq!(bundles.get(svid.id.trust_domain()).unwrap().authorities.len(), 1);

    let node = server.client(&kubernetes.sign(&claims("sys", "adit", "adit-1", "n1")));
    let of_pod = fetch(&node, &id("ns/shop/sa/web")).await.unwrap();
    assert_ne!(of_pod.serial, svid.serial);
    assert!(fetch(&node, &id("ns/sys/sa/adit")).await.is_ok());
    let line = server.decision(0);
    assert_eq!(line["target"], "ca");
    assert_eq!(line["caller"], "pod shop/web-1 (shop/web)");
    assert_eq!(line["wanted"], "spiffe://td/ns/shop/sa/web");
    assert_eq!(line["serial"], svid.serial);
    server.counts("adit_ca_issued_total 3");
}

#[tokio::test]
async fn a_node_proxy_gets_a_pod_as_soon_as_it_is_listed() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let node = server.client(&issuer.sign(&claims("sys", "adit", "adit-1", "n1")));
    let api = id("ns/shop/sa/api");
    assert!(fetch(&node, &api).await.is_err());
    let more = "- { namespace: shop, serviceAccount: api, node: n1, name: api-1, uid: u }\n";
    std::fs::write(server.file("pods"), format!("{}{more}", crate::server::PODS)).unwrap();
    wait_until_async("the pod gets its SVID", LIMIT, async || {
        let asked = fetch(&node, &api).await;
        asked.map_err(|e| assert!(matches!(e, SourceError::Refused { .. }), "{e}")).is_ok()
    })
    .await;
    // A file that is not right changes nothing.
    std::fs::write(server.file("pods"), "pods: [{}]").unwrap();
    server.line("of bad pods", |l| {
        l["message"].as_str().unwrap_or_default().contains("pods rejected")
    });
    assert!(fetch(&node, &api).await.is_ok());
}

#[tokio::test]
async fn a_join_token_gives_one_svid_also_after_a_crash() {
    let mut server = CaServer::start(&[]);
    let host = id("host/db1");
    let token = server.join_token(&host, "10m");
    let client = server.client(&token);
    let other = fetch(&client, &id("host/db2")).await.unwrap_err();
    assert!(matches!(other, SourceError::Refused { .. }), "{other}");
    assert_eq!(server.decision(0)["reason"], "other_identity");
    assert!(fetch(&client, &host).await.is_ok(), "a refusal does not use it up");
    // As after a restart, which shows the token again.
    let file = server.file("token");
    std::fs::write(&file, &token).unwrap();
    let client = Istiod::new(server.config(file.clone()));
    let refused = fetch(&client, &host).await.unwrap_err().to_string();
    let says = format!("the join token was used before; {}", told_to_join_again(&host, &file));
    assert!(refused.ends_with(&says), "{refused}");
    assert_eq!(server.decision(2)["reason"], "join_token_replayed");
    server.crash_and_restart();
    assert!(fetch(&client, &host).await.is_err());
    assert_eq!(server.decision(0)["reason"], "join_token_replayed");
    let late = server.client(&server.join_token(&host, "1s"));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(fetch(&late, &host).await.is_err());
    assert_eq!(server.decision(1)["reason"], "join_token_expired");
}

#[tokio::test]
async fn what_came_by_a_join_token_renews_itself() {
    let server = CaServer::start(&[]);
    let host = id("host/db1");
    let client = server.client(&server.join_token(&host, "10m"));
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..4 {
        serials.insert(fetch(&client, &host).await.unwrap().serial);
    }
    assert_eq!(serials.len(), 4);
    assert_eq!(server.decision(0)["caller"], format!("join token of {host}"));
    assert_eq!(server.decision(3)["caller"], host.as_str());
}

#[tokio::test]
async fn of_many_who_show_one_join_token_one_gets_an_svid() {
    let server = CaServer::start(&[]);
    let host = id("host/db1");
    let token = server.join_token(&host, "10m");
    let clients: Vec<_> = (0..20).map(|_| server.client(&token)).collect();
    let all = clients.iter().map(|client| fetch(client, &host));
    let got = futures_util::future::join_all(all).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(got, 1);
}

#[tokio::test]
async fn an_svid_renews_itself_and_nobody_else() {
    let server = CaServer::start(&[]);
    let host = id("host/db1");
    let svid = fetch(&server.client(&server.join_token(&host, "10m")), &host).await.unwrap();
    let ask = |id: Option<&str>| IstioCertificateRequest {
        csr: csr(&[]),
        validity_duration: 0,
        metadata: id.and_then(for_identity),
    };
    let renewed = call(&server, None, Some(&svid), ask(None)).await.unwrap();
    assert_eq!(renewed.cert_chain.len(), 2);
    assert_eq!(server.decision(1)["caller"], host.as_str());
    assert!(call(&server, None, Some(&svid), ask(Some(host.as_str()))).await.is_ok());
    let other = call(&server, None, Some(&svid), ask(Some("spiffe://td/host/db2"))).await;
    assert_eq!(other.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(server.decision(3)["reason"], "other_identity");
    let nobody = call(&server, None, None, ask(None)).await;
    assert_eq!(nobody.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(server.decision(4)["reason"], "no_credentials");
    // An SVID of the same name from another CA of the same trust domain.
    let stranger = CaServer::start(&[]);
    let token = stranger.join_token(&host, "10m");
    let forged = fetch(&stranger.client(&token), &host).await.unwrap();
    assert!(call(&server, None, Some(&forged), ask(None)).await.is_err());
    let decision = server.decision(5);
    assert_eq!(decision["reason"], "svid_not_valid");
    let why = decision["why"].as_str().unwrap();
    assert!(why.ends_with("its certificate names spiffe://td/host/db1"), "{why}");
}

#[tokio::test]
async fn keys_of_the_issuer_change_while_it_runs() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = CaServer::start(&[&old]);
    let (web, said) = (id("ns/shop/sa/web"), claims("shop", "web", "web-1", "n1"));
    let (by_old, by_new) = (server.client(&old.sign(&said)), server.client(&new.sign(&said)));
    assert!(fetch(&by_old, &web).await.is_ok());
    assert!(fetch(&by_new, &web).await.is_err());
    assert_eq!(server.decision(1)["reason"], "token_unknown_key");
    std::fs::write(server.file("jwks"), jwks(&[&new])).unwrap();
    assert!(fetch(&by_new, &web).await.is_ok());
    assert!(fetch(&by_old, &web).await.is_err());
}
