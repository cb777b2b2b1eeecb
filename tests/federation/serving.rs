//! Our own bundle and our JWT keys, as others get them.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use adit::{
    credentials::Svids,
    lifecycle::Tasks,
    observe::metrics::Metrics,
    spiffe_api::federation::{
        BundleEndpoint, BundleFrom, KeyPairFiles, Oidc, Profile, Proof, Relation, ServeConfig,
        serve,
    },
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    endpoint::{Foreign, Ours, by_svid},
    ports::free,
    wait::{LIMIT, wait_until_async},
};

fn svids(of: Foreign) -> (Arc<Svids>, adit::identity::TrustDomain, tempfile::TempDir) {
    let Foreign { dir, ca, domain } = of;
    let metrics = Arc::new(Metrics::new().unwrap());
    (Arc::new(Svids::new(Arc::new(ca), metrics, Tasks::default())), domain, dir)
}

/// A self-signed certificate for 127.0.0.1 in two files.
fn certificate(dir: &Path) -> KeyPairFiles {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let files = KeyPairFiles { certificate: dir.join("c.pem"), private_key: dir.join("k.pem") };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
    files
}

/// What curl prints, with the head of the answer, or its complaint.
async fn curl(words: &str) -> String {
    let words: Vec<String> = words.split_whitespace().map(ToOwned::to_owned).collect();
    let run = move || Command::new("curl").args(["-siS", "-m", "10"]).args(words).output();
    let done = tokio::task::spawn_blocking(run).await.unwrap().expect("curl is installed");
    let text = [done.stdout, done.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn https_spiffe_shows_the_endpoints_svid_and_is_understood_by_our_client() {
    let other = Foreign::new("other.td");
    let (id, root) = (other.id("adit/bundle-endpoint"), other.ca.bundle().authorities);
    let first = other.bundle_file(0);
    let (svids, domain, _dir) = svids(other);
    let listen = free();
    let endpoint = BundleEndpoint { listen, path: "/".into(), proof: Proof::Spiffe(id.clone()) };
    let tasks = Tasks::default();
    let config = ServeConfig { bundle: Some(endpoint), oidc: None };
    serve(&config, &domain, &svids, &Arc::default(), [&tasks; 2]).await.unwrap();
    let ours = Ours::new(None);
    ours.federation.apply(&[by_svid(&domain, &format!("https://{listen}/"), id, &first)]);
    ours.until("fetched", |o| o.status("other.td").fetched.is_some()).await;
    assert_eq!(ours.bundle("other.td").unwrap().authorities, root);
    assert_eq!(ours.bundle("other.td").unwrap().refresh_hint, Some(Duration::from_secs(60)));
}

#[tokio::test(flavor = "multi_thread")]
async fn https_web_is_understood_by_curl_with_tls_1_2_and_1_3() {
    let other = Foreign::new("other.td");
    let files = certificate(other.dir.path());
    let (svids, domain, dir) = svids(other);
    let listen = free();
    let proof = Proof::Web(files.clone());
    let endpoint = BundleEndpoint { listen, path: "/bundle".into(), proof };
    let tasks = Tasks::default();
    let config = ServeConfig { bundle: Some(endpoint), oidc: None };
    serve(&config, &domain, &svids, &Arc::default(), [&tasks; 2]).await.unwrap();
    let (ca, url) = (files.certificate.display(), format!("https://{listen}/bundle"));
    for versions in ["--tls-max 1.2", "--tlsv1.3"] {
        let answer = curl(&format!("--cacert {ca} {versions} {url}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["keys"].as_array().unwrap().len(), 2, "a root and a JWT authority: {body}");
        assert_eq!(
            (&body["keys"][0]["use"], &body["keys"][0]["kid"]),
            (&"x509-svid".into(), &Value::Null)
        );
    }
    // Whoever connects and says nothing keeps nobody out.
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(tokio::net::TcpStream::connect(listen).await.unwrap());
    }
    let begun = std::time::Instant::now();
    assert!(curl(&format!("--cacert {ca} {url}")).await.starts_with("HTTP/1.1 200 OK"));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(held);
    for (words, expected) in [
        (format!("--cacert {ca} https://{listen}/"), "404 Not Found"),
        (format!("--cacert {ca} -X POST {url}"), "405 Method Not Allowed"),
        (format!("--cacert {ca} -I {url}"), "200 OK"),
        (format!("--cacert {ca} --tls-max 1.1 --tlsv1.0 {url}"), "alert"),
        (format!("http://{listen}/bundle"), "curl: ("),
    ] {
        let answer = curl(&words).await;
        assert!(answer.contains(expected), "{words}: {answer}");
    }
    // A new certificate is shown without a restart; one without its key is not.
    std::fs::write(&files.private_key, "nothing").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(curl(&format!("--cacert {ca} {url}")).await.starts_with("HTTP/1.1 200 OK"));
    certificate(dir.path());
    let new = async || curl(&format!("--cacert {ca} {url}")).await.starts_with("HTTP/1.1 200 OK");
    wait_until_async("the new certificate is shown", LIMIT, new).await;
    // Our own client by the other profile.
    let ours = Ours::new(None);
    let profile = Profile::Web { roots: Some(files.certificate.clone()) };
    let from = BundleFrom::Endpoint { url: url.parse().unwrap(), profile };
    ours.federation.apply(&[Relation { trust_domain: domain, from }]);
    ours.until("fetched", |o| o.bundle("other.td").is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oidc_documents_are_served_over_http_for_an_ingress() {
    let other = Foreign::new("other.td");
    let (svids, domain, _dir) = svids(other);
    let listen = free();
    let issuer = "https://oidc.example/td".parse().unwrap();
    let oidc = Some(Oidc { issuer, listen, certificate: None });
    let tasks = Tasks::default();
    serve(&ServeConfig { bundle: None, oidc }, &domain, &svids, &Arc::default(), [&tasks; 2])
        .await
        .unwrap();
    let at = |path: &str| format!("http://{listen}/td{path}");
    let answer = curl(&at("/.well-known/openid-configuration")).await;
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["jwks_uri"], "https://oidc.example/td/keys");
    let answer = curl(&at("/keys")).await;
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["keys"].as_array().map(Vec::len), Some(1), "the JWT authority: {body}");
    assert!(body["keys"].as_array().unwrap().iter().all(|k| k["use"] == "sig"), "{body}");
    assert!(curl(&at("/")).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn who_says_nothing_or_too_much_is_hung_up_on() {
    let other = Foreign::new("other.td");
    let (svids, domain, _dir) = svids(other);
    let listen = free();
    let issuer = "https://oidc.example".parse().unwrap();
    let oidc = Some(Oidc { issuer, listen, certificate: None });
    let tasks = Tasks::default();
    serve(&ServeConfig { bundle: None, oidc }, &domain, &svids, &Arc::default(), [&tasks; 2])
        .await
        .unwrap();
    let many = format!("GET /keys HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(64 << 10));
    for said in ["", "GET /keys HTTP/1.1\r\nhost:", &many] {
        let mut socket = tokio::net::TcpStream::connect(listen).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        assert!(ended.is_ok(), "still open after 5 s");
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_served_is_said_at_the_start() {
    let other = Foreign::new("other.td");
    let dir = other.dir.path().to_owned();
    let (svids, domain, _dir) = svids(other);
    let tasks = Tasks::default();
    let files = certificate(&dir);
    std::fs::write(&files.private_key, rcgen::KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    let proof = Proof::Web(files);
    let listen = free();
    let endpoint = BundleEndpoint { listen, path: "/".into(), proof };
    let config = ServeConfig { bundle: Some(endpoint), oidc: None };
    let error = serve(&config, &domain, &svids, &Arc::default(), [&tasks; 2]).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert!(format!("{error}: {cause}").contains("k.pem"), "{error}: {cause}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap();
    let issuer = "https://oidc.example".parse().unwrap();
    let oidc = Some(Oidc { issuer, listen, certificate: None });
    let error =
        serve(&ServeConfig { bundle: None, oidc }, &domain, &svids, &Arc::default(), [&tasks; 2])
            .await;
    assert!(error.unwrap_err().to_string().contains("cannot listen"));
}
