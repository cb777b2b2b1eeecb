//! The issuer's own servers: a JWKS at a URL, and an API server that reviews tokens.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Ca, KeyPair};
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, claims, jwks},
    server::{CaServer, PODS, fetch, id},
};

type Answer = Arc<dyn Fn(&str, Value) -> String + Send + Sync>;

/// An HTTPS server on loopback; its root is written to `root`.
async fn serve(root: &Path, answer: Answer) -> SocketAddr {
    let (key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(root, params.self_signed(&key).unwrap().pem()).unwrap();
    let ca = Ca::new(params, key);
    let cert = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let cert = cert.signed_by(&own, &ca).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], pki_types::PrivateKeyDer::Pkcs8(own.serialize_der().into()))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tasks = adit::lifecycle::Tasks::default();
    tasks.clone().spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tasks.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(|request: Request<Incoming>| {
                    let answer = Arc::clone(&answer);
                    async move {
                        let bearer = request.headers().get("authorization");
                        let bearer = bearer.map(|b| b.to_str().unwrap().to_owned());
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body = serde_json::from_slice(&body).unwrap_or_default();
                        let text = answer(&bearer.unwrap_or_default(), body);
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    addr
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pods"), PODS).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwks_url_is_asked_seldom_whatever_callers_show() {
    let (issuer, stranger) = (Issuer::new("k1"), Issuer::new("k2"));
    let (dir, asked) = (folder(), Arc::new(Mutex::new(0)));
    let (keys, count) = (jwks(&[&issuer]), Arc::clone(&asked));
    let answer = move |_: &str, _| {
        *count.lock().unwrap() += 1;
        keys.clone()
    };
    let addr = serve(&dir.path().join("web.pem"), Arc::new(answer)).await;
    let attestors = format!(
        "\n  kubernetes: {{ issuer: 'https://kubernetes.test', jwks: 'https://{addr}/keys', \
         jwksRoots: DIR/web.pem }}\n"
    );
    let server = CaServer::start_in(dir, &attestors, "127.0.0.1:0");
    let (web, said) = (id("ns/shop/sa/web"), claims("shop", "web", "web-1", "n1"));
    for _ in 0..5 {
        assert!(fetch(&server.client(&issuer.sign(&said)), &web).await.is_ok());
        assert!(fetch(&server.client(&stranger.sign(&said)), &web).await.is_err());
    }
    assert_eq!(server.decision(9)["reason"], "token_unknown_key");
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_reviews_tokens() {
    let dir = folder();
    std::fs::write(dir.path().join("own"), "own\n").unwrap();
    let review = |bearer: &str, ask: Value| {
        assert_eq!((bearer, &ask["kind"]), ("Bearer own", &json!("TokenReview")));
        assert_eq!(ask["spec"]["audiences"], json!(["istio-ca"]));
        let known = ask["spec"]["token"] == "opaque";
        json!({ "status": {
            "authenticated": known, "audiences": ["istio-ca"], "error": "token has been invalidated",
            "user": { "username": "system:serviceaccount:shop:web", "extra": {
                "authentication.kubernetes.io/pod-name": ["web-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-web-1"],
            } },
        } })
        .to_string()
    };
    let addr = serve(&dir.path().join("web.pem"), Arc::new(review)).await;
    let attestors = format!(
        "\n  kubernetes: {{ tokenReview: {{ apiServer: 'https://{addr}', token: DIR/own, roots: \
         DIR/web.pem }}, pods: DIR/pods }}\n"
    );
    let server = CaServer::start_in(dir, &attestors, "127.0.0.1:0");
    let web = id("ns/shop/sa/web");
    assert!(fetch(&server.client("opaque"), &web).await.is_ok());
    assert!(fetch(&server.client("opaque"), &id("ns/shop/sa/db")).await.is_err());
    let gone = fetch(&server.client("other"), &web).await.unwrap_err();
    assert!(gone.to_string().contains("invalidated"), "{gone}");
    assert_eq!(server.decision(2)["reason"], "token_rejected");
}
