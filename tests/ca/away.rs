//! Servers that are away, somebody else, or slow: nobody waits for another's trouble.

use std::time::{Duration, Instant};

use adit::credentials::{Istiod, Roots, Server, SourceError};

use crate::{
    issuer::{Issuer, claims},
    server::{CaServer, fetch, id},
};

#[tokio::test]
async fn the_next_call_finds_a_server_that_is_back() {
    let issuer = Issuer::new("k1");
    let mut server = CaServer::start(&[&issuer]);
    let node = server.client(&issuer.sign(&claims("sys", "adit", "adit-1", "n1")));
    let (web, adit) = (id("ns/shop/sa/web"), id("ns/sys/sa/adit"));
    assert!(fetch(&node, &web).await.is_ok());
    server.stop();
    let error = fetch(&node, &web).await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&server.addr.to_string()), "{error}");
    server.crash_and_restart();
    // Neither identity meets the error of before.
    assert!(fetch(&node, &adit).await.is_ok());
    assert!(fetch(&node, &web).await.is_ok());
}

#[tokio::test]
async fn a_server_of_another_name_or_root_is_not_talked_to() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let other = CaServer::start(&[&issuer]);
    let token = server.file("token");
    std::fs::write(&token, issuer.sign(&claims("shop", "web", "web-1", "n1"))).unwrap();
    let mut config = server.config(token.clone());
    let uri = config.server.address.parse().unwrap();
    config.server.server = Server::of(&uri, Some("other.test"), 15012).unwrap();
    let error = fetch(&Istiod::new(config.clone()), &id("ns/shop/sa/web")).await.unwrap_err();
    assert!(error.to_string().contains("is not valid for "), "{error}");
    config.server.server = Server::of(&uri, Some("ca.test"), 15012).unwrap();
    config.server.roots = Roots::File(other.file("ca/root.pem"));
    let error = fetch(&Istiod::new(config.clone()), &id("ns/shop/sa/web")).await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable { .. }), "{error}");
    // What the file has now counts: the right root, then no token.
    let client = Istiod::new(config.clone());
    assert!(fetch(&client, &id("ns/shop/sa/web")).await.is_err());
    std::fs::copy(server.file("ca/root.pem"), other.file("ca/root.pem")).unwrap();
    assert!(fetch(&client, &id("ns/shop/sa/web")).await.is_ok());
    std::fs::write(&token, " \n").unwrap();
    let error = fetch(&client, &id("ns/shop/sa/web")).await.unwrap_err();
    assert!(error.to_string().contains("is empty"), "{error}");
    assert!(server.lines().iter().all(|line| line["message"] != "request refused"));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let token = server.file("token");
    std::fs::write(&token, "a token").unwrap();
    let mut config = server.config(token);
    config.server.address = format!("https://{}", silent.local_addr().unwrap());
    let uri = config.server.address.parse().unwrap();
    config.server.server = Server::of(&uri, Some("ca.test"), 15012).unwrap();
    let start = Instant::now();
    let error = fetch(&Istiod::new(config), &id("ns/shop/sa/web")).await.unwrap_err();
    assert!(matches!(error, SourceError::Unavailable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

/// Who opens connections and says nothing does not keep others out.
#[tokio::test]
async fn nobody_takes_all_connections() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let mut held = Vec::new();
    for _ in 0..300 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(socket.connect(server.addr).await.unwrap());
    }
    let mut closed = 0;
    // The oldest go, so that whoever comes now has a chance.
    for socket in held.iter_mut().take(44) {
        let mut byte = [0];
        let read = tokio::io::AsyncReadExt::read(socket, &mut byte);
        let read = tokio::time::timeout(Duration::from_secs(2), read).await;
        closed += usize::from(!matches!(read, Ok(Ok(1..)) | Err(_)));
    }
    assert_eq!(closed, 44, "beyond its share");
    let web = server.client(&issuer.sign(&claims("shop", "web", "web-1", "n1")));
    assert!(fetch(&web, &id("ns/shop/sa/web")).await.is_ok());
}

/// Who finishes the handshake and asks for nothing is closed, and so is who does not begin it.
#[tokio::test]
async fn who_asks_for_nothing_is_closed() {
    use tokio::io::AsyncReadExt as _;
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let begun = Instant::now();
    let mut raw = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let mut tls = crate::raw::silent(&server).await;
    let (limit, mut rest) = (Duration::from_secs(30), Vec::new());
    let ended = tokio::time::timeout(limit, raw.read_to_end(&mut rest)).await;
    ended.expect("no handshake").ok();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let ended = tokio::time::timeout(limit, tls.read_to_end(&mut rest)).await;
    ended.expect("no request").ok();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
