//! Who is banned, on nodes that have the CA only by its API.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use adit::{
    credentials::{Istiod, Source, SourceError, Svids},
    identity::SpiffeId,
    lifecycle::Tasks,
    observe::metrics::Metrics,
    rpc::{bans::Banned, istio_ca::IstioCertificateRequest},
};
use tokio::sync::watch;
use tonic::{Code, Status, Streaming};

use crate::{
    issuer::{Issuer, claims},
    raw::{call, csr, watch},
    server::{CaServer, fetch, id, told_to_join_again},
    wait::{LIMIT, wait_until_async},
};

pub(crate) type BannedNow = watch::Receiver<Arc<BTreeSet<SpiffeId>>>;

pub(crate) fn follow(client: &Istiod) -> BannedNow {
    client.banned().expect("a source that may ban")
}

pub(crate) async fn becomes(banned: &mut BannedNow, ids: &[&SpiffeId]) {
    let so = banned.wait_for(|now| now.iter().collect::<Vec<_>>() == ids);
    let so = tokio::time::timeout(LIMIT, so).await;
    drop(so.unwrap_or_else(|_| panic!("not within {LIMIT:?}: told of {ids:?}")));
}

#[tokio::test]
async fn a_ban_reaches_nodes_that_ask_over_the_api() {
    let issuer = Issuer::new("k1");
    let mut server = CaServer::start(&[&issuer]);
    let (web, db) = (id("ns/shop/sa/web"), id("ns/shop/sa/db"));
    let node = server.client(&issuer.sign(&claims("sys", "adit", "adit-1", "n1")));
    fetch(&node, &web).await.unwrap();
    let mut told = follow(&node);
    assert!(told.borrow().is_empty());
    server.ca(&["ban", db.as_str()]);
    becomes(&mut told, &[&db]).await;
    // Whoever is banned hears so, and not that the CA is away.
    server.ca(&["ban", web.as_str()]);
    becomes(&mut told, &[&db, &web]).await;
    let refused = fetch(&node, &web).await.unwrap_err();
    assert!(matches!(&refused, SourceError::Banned { .. }), "{refused}");
    assert!(refused.to_string().contains("is banned"), "{refused}");
    let token = issuer.sign(&claims("shop", "web", "web-1", "n1"));
    let request = IstioCertificateRequest { csr: csr(&[web.as_str()]), ..Default::default() };
    let status = call(&server, Some(&token), None, request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(server.decision(1)["reason"], "banned");
    // What was told last holds while the server is away, and it is followed again.
    server.stop();
    server.ca(&["unban", db.as_str()]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(told.borrow().len(), 2);
    server.crash_and_restart();
    becomes(&mut told, &[&web]).await;
    server.ca(&["unban", web.as_str()]);
    becomes(&mut told, &[]).await;
    fetch(&node, &web).await.unwrap();
}

#[tokio::test]
async fn a_host_that_joined_is_told_as_well() {
    let server = CaServer::start(&[]);
    let (host, other) = (id("host/db1"), id("host/db2"));
    let client = server.client(&server.join_token(&host, "10m"));
    fetch(&client, &host).await.unwrap();
    let mut told = follow(&client);
    server.ca(&["ban", other.as_str()]);
    becomes(&mut told, &[&other]).await;
    // A join token for somebody who is banned is not used up by it.
    let token = server.join_token(&other, "10m");
    let (unlucky, lucky) = (server.client(&token), server.client(&token));
    let refused = fetch(&unlucky, &other).await.unwrap_err();
    assert!(refused.to_string().contains("is banned"), "{refused}");
    server.ca(&["unban", other.as_str()]);
    becomes(&mut told, &[]).await;
    fetch(&lucky, &other).await.unwrap();
    server.ca(&["ban", host.as_str()]);
    becomes(&mut told, &[&host]).await;
    let refused = fetch(&client, &host).await.unwrap_err();
    assert!(refused.to_string().contains("is banned"), "{refused}");
}

/// What a node holds whose source is `client`.
fn node(client: Istiod) -> Svids {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    Svids::new(Arc::new(client), metrics, Tasks::default())
}

#[tokio::test]
async fn a_node_uses_no_identity_that_is_banned_and_takes_no_silence_for_a_ban() {
    let issuer = Issuer::new("k1");
    let mut server = CaServer::start(&[&issuer]);
    let web = id("ns/shop/sa/web");
    let svids = node(server.client(&issuer.sign(&claims("shop", "web", "web-1", "n1"))));
    let uid: Arc<str> = "shop/web-1".into();
    svids.watch(&uid, &web);
    svids.ready(&uid).await.unwrap();
    let state = || svids.statuses().remove(0).state;
    // A CA that is away bans nobody.
    server.stop();
    svids.rotate_now(&web);
    wait_until_async("a failure", LIMIT, async || svids.statuses()[0].last_error.is_some()).await;
    assert_eq!(state(), "Available");
    svids.ready(&uid).await.unwrap();
    server.crash_and_restart();
    svids.rotate_now(&web);
    wait_until_async("renewed", LIMIT, async || svids.statuses()[0].last_error.is_none()).await;
    server.ca(&["ban", web.as_str()]);
    wait_until_async("banned", LIMIT, async || state().starts_with("Banned: ")).await;
    let refused = svids.ready(&uid).await.unwrap_err();
    assert!(refused.is_ban(), "{refused}");
    let lost = svids.outage_budget().lost;
    assert!(lost.len() == 1 && lost[0].contains("is banned"), "{lost:?}");
    assert_eq!(svids.statuses()[0].serial_number, None, "nothing of it is held");
    server.ca(&["unban", web.as_str()]);
    wait_until_async("available", LIMIT, async || state() == "Available").await;
    svids.ready(&uid).await.unwrap();
}

#[tokio::test]
async fn a_refusal_because_of_a_ban_counts_where_no_bans_are_told() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let (web, db) = (id("ns/shop/sa/web"), id("ns/shop/sa/db"));
    let client = server.client(&issuer.sign(&claims("shop", "web", "web-1", "n1")));
    server.ca(&["ban", web.as_str()]);
    // Bans are followed once the CA has given something: here it never does.
    let told = follow(&client);
    assert!(told.borrow().is_empty());
    let other = fetch(&client, &db).await.unwrap_err();
    assert!(!other.is_ban() && told.borrow().is_empty(), "{other}");
    let refused = fetch(&client, &web).await.unwrap_err();
    assert!(refused.is_ban(), "{refused}");
    assert_eq!(told.borrow().iter().collect::<Vec<_>>(), [&web]);
    server.ca(&["unban", web.as_str()]);
    // The server sees so in a moment.
    let given = async || fetch(&client, &web).await.is_ok();
    wait_until_async("it is given again", LIMIT, given).await;
    assert!(told.borrow().is_empty());
}

/// Each stream begins with all that are banned, so a caller begins no more than it needs.
#[tokio::test]
async fn a_caller_begins_to_watch_so_often() {
    let server = CaServer::start(&[]);
    let host = id("host/db1");
    let token = server.join_token(&host, "10m");
    let mut refused = 0;
    for _ in 0..60 {
        if let Err(status) = watch(&server, Some(&token), None).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            refused += 1;
        }
    }
    assert!((4..58).contains(&refused), "{refused}");
    // Others are told all the same, and what the watcher may have otherwise it gets.
    let other = server.join_token(&id("host/db2"), "10m");
    watch(&server, Some(&other), None).await.unwrap();
    let svid = fetch(&server.client(&token), &host).await.unwrap();
    // Another caller would have 40.
    let mut by_svid = 0;
    while by_svid < 30 && watch(&server, None, Some(&svid)).await.is_ok() {
        by_svid += 1;
    }
    assert!(by_svid < 30, "the same caller by its SVID");
}

/// How a stream ends, if it does so soon; what it tells before is left out.
async fn end(mut stream: Streaming<Banned>) -> Option<Status> {
    let ends = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("no error"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), ends).await.ok()
}

/// Whoever has a copy of an SVID keeps nobody from being told.
#[tokio::test]
async fn the_newest_watcher_gets_in_and_the_oldest_of_the_same_caller_asks_again() {
    let server = CaServer::start(&[]);
    let (host, other) = (id("host/db1"), id("host/db2"));
    let svid = fetch(&server.client(&server.join_token(&host, "10m")), &host).await.unwrap();
    let aside = server.join_token(&other, "10m");
    let mut aside = watch(&server, Some(&aside), None).await.unwrap();
    let mut open = Vec::new();
    for n in 0..20 {
        let watched = watch(&server, None, Some(&svid)).await;
        open.push(watched.unwrap_or_else(|status| panic!("{n}: {status}")));
    }
    let newest = open.split_off(4);
    for stream in open {
        let ended = end(stream).await.expect("an end");
        assert_eq!(ended.code(), Code::Aborted, "{ended}");
    }
    let third = id("host/db3");
    server.ca(&["ban", third.as_str()]);
    for mut stream in newest {
        let told = tokio::time::timeout(Duration::from_secs(5), stream.message()).await;
        assert_eq!(told.unwrap().unwrap().unwrap().ids, [third.to_string()]);
    }
    let told = tokio::time::timeout(Duration::from_secs(5), aside.message()).await;
    assert_eq!(told.unwrap().unwrap().unwrap().ids, [third.to_string()]);
}

#[tokio::test]
async fn whoever_is_banned_is_told_no_more() {
    let server = CaServer::start(&[]);
    let (host, other) = (id("host/db1"), id("host/db2"));
    let token = server.join_token(&host, "10m");
    let svid = fetch(&server.client(&server.join_token(&host, "10m")), &host).await.unwrap();
    let by_token = watch(&server, Some(&token), None).await.unwrap();
    let by_svid = watch(&server, None, Some(&svid)).await.unwrap();
    let aside = watch(&server, Some(&server.join_token(&other, "10m")), None).await.unwrap();
    server.ca(&["ban", host.as_str()]);
    for stream in [by_token, by_svid] {
        let ended = end(stream).await.expect("an end");
        assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    }
    for (token, svid) in [(Some(&*token), None), (None, Some(&svid))] {
        let refused = watch(&server, token, svid).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert!(end(aside).await.is_none(), "others are told");
}

/// The pods of a node depend on what its proxy hears, whatever is thought of the proxy itself.
#[tokio::test]
async fn a_pod_that_is_banned_is_told_no_more_and_a_node_proxy_is() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let pod = issuer.sign(&claims("shop", "web", "web-1", "n1"));
    let node = issuer.sign(&claims("sys", "adit", "adit-1", "n1"));
    let by_pod = watch(&server, Some(&pod), None).await.unwrap();
    let by_node = watch(&server, Some(&node), None).await.unwrap();
    server.ca(&["ban", id("ns/sys/sa/adit").as_str()]);
    server.ca(&["ban", id("ns/shop/sa/web").as_str()]);
    let ended = end(by_pod).await.expect("an end");
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    let refused = watch(&server, Some(&pod), None).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(end(by_node).await.is_none(), "the node proxy is told");
}

#[tokio::test]
async fn who_showed_what_is_no_longer_accepted_is_told_no_more() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let (pod, host) = (issuer.sign(&claims("shop", "web", "web-1", "n1")), id("host/db1"));
    let joins = server.join_token(&host, "10m");
    let by_pod = watch(&server, Some(&pod), None).await.unwrap();
    let by_join = watch(&server, Some(&joins), None).await.unwrap();
    server.edit("  joinTokens:", "  # joinTokens:");
    server.has_read(1);
    let ended = end(by_join).await.expect("an end");
    assert_eq!(ended.code(), Code::Ok, "it may ask again: {ended}");
    let refused = watch(&server, Some(&joins), None).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // Others are told until their own proof is judged otherwise.
    server.edit("issuer: 'https://kubernetes.test'", "issuer: 'https://other.test'");
    server.has_read(2);
    assert_eq!(end(by_pod).await.expect("an end").code(), Code::Ok);
    let refused = watch(&server, Some(&pod), None).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn a_host_that_is_banned_no_more_comes_back_with_a_new_join_token() {
    let server = CaServer::start(&[]);
    let host = id("host/db1");
    let file = server.file("token");
    std::fs::write(&file, server.join_token(&host, "10m")).unwrap();
    let client = Istiod::new(server.config(file.clone()));
    fetch(&client, &host).await.unwrap();
    let mut told = follow(&client);
    server.ca(&["ban", host.as_str()]);
    becomes(&mut told, &[&host]).await;
    assert!(fetch(&client, &host).await.unwrap_err().is_ban());
    server.ca(&["unban", host.as_str()]);
    // Until the server sees so; what a client is told that asks meanwhile is another matter.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Its SVID stays revoked, and its token has been used.
    for _ in 0..2 {
        let refused = fetch(&client, &host).await.unwrap_err().to_string();
        let says = "the CA refuses this host's SVID (revoked or expired): ";
        assert!(refused.contains(says), "{refused}");
        assert!(refused.contains(&told_to_join_again(&host, &file)), "{refused}");
    }
    std::fs::remove_file(&file).unwrap();
    let refused = fetch(&client, &host).await.unwrap_err().to_string();
    assert!(refused.contains(&told_to_join_again(&host, &file)), "{refused}");
    std::fs::write(&file, server.join_token(&host, "10m")).unwrap();
    fetch(&client, &host).await.unwrap();
    fetch(&client, &host).await.unwrap();
    let told = told.wait_for(|now| now.is_empty());
    drop(tokio::time::timeout(Duration::from_secs(20), told).await.expect("told of the end"));
}
