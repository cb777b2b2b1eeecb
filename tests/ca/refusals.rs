//! Why others get none: each refusal with its reason in the log.

use std::time::Duration;

use adit::{credentials::SourceError, rpc::istio_ca::IstioCertificateRequest};
use serde_json::{Value, json};

use crate::{
    issuer::{Issuer, claims},
    raw::{call, csr, for_identity},
    server::{CaServer, fetch, id},
};

#[tokio::test]
async fn each_bad_token_is_refused_with_its_reason() {
    let (issuer, stranger) = (Issuer::new("k1"), Issuer::new("k9"));
    let impostor = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let good = claims("shop", "web", "web-1", "n1");
    let node = claims("sys", "adit", "adit-1", "n1");
    let with = |change: fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        issuer.sign(&claims)
    };
    let (web, db) = ("ns/shop/sa/web", "ns/shop/sa/db");
    let cases = [
        (with(|c| c["aud"] = json!(["kubernetes"])), web, "token_wrong_audience"),
        (with(|c| c["exp"] = json!(c["iat"].as_u64().unwrap() - 1)), web, "token_expired"),
        (with(|c| c["nbf"] = json!(c["exp"])), web, "token_not_yet_valid"),
        (with(|c| c["iss"] = json!("https://other.test")), web, "token_wrong_issuer"),
        (with(|c| c["kubernetes.io"]["pod"] = Value::Null), web, "token_unbound"),
        (with(|c| c["kubernetes.io"]["pod"]["uid"] = json!("old")), web, "stale_pod"),
        (with(|c| c["sub"] = json!("system:serviceaccount:shop:db")), web, "token_malformed"),
        (issuer.sign(&good), db, "other_identity"),
        (issuer.sign(&node), db, "other_node"),
        (stranger.sign(&good), web, "token_unknown_key"),
        (impostor.sign(&good), web, "token_bad_signature"),
        ("no.token.atall".to_owned(), web, "token_malformed"),
        ("adit-join.AAAA".to_owned(), web, "join_token_malformed"),
    ];
    for (n, (token, wanted, reason)) in cases.iter().enumerate() {
        let error = fetch(&server.client(token), &id(wanted)).await.unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{reason}: {error}");
        assert!(error.to_string().contains(&server.addr.to_string()), "{error}");
        let line = server.decision(n);
        assert_eq!(
            (&line["message"], &line["reason"]),
            (&json!("request refused"), &json!(reason)),
            "{line}"
        );
    }
    let metrics = server.counts("adit_ca_refused_total{reason=\"token_wrong_audience\"} 1");
    assert!(metrics.contains("adit_ca_issued_total 0"), "{metrics}");
    let log = server.log();
    cases
        .iter()
        .for_each(|(token, ..)| assert!(!log.contains(token.as_str()), "a token in the log"));
}

#[tokio::test]
async fn each_bad_request_is_refused_with_its_reason() {
    let issuer = Issuer::new("k1");
    let server = CaServer::start(&[&issuer]);
    let token = issuer.sign(&claims("shop", "web", "web-1", "n1"));
    let (web, db) = ("spiffe://td/ns/shop/sa/web", "spiffe://td/ns/shop/sa/db");
    let spoiled = {
        let csr = csr(&[web]);
        let at = csr.len() / 2;
        let other = if csr.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &csr[..at], &csr[at + 1..])
    };
    let other_td = "spiffe://other/ns/shop/sa/web";
    for (n, (csr, wanted, reason)) in [
        (csr(&[db]), None, "csr_other_name"),
        (csr(&[web, db]), None, "csr_other_name"),
        (csr(&[web]), Some(db), "other_identity"),
        (csr(&[other_td]), Some(other_td), "other_trust_domain"),
        (csr(&[]), Some("web"), "no_spiffe_id"),
        ("junk".to_owned(), None, "csr_malformed"),
        ("x".repeat(20 << 10), None, "csr_malformed"),
        (spoiled, None, "csr_"),
    ]
    .into_iter()
    .enumerate()
    {
        let metadata = wanted.and_then(for_identity);
        let request = IstioCertificateRequest { csr, validity_duration: 60, metadata };
        assert!(call(&server, Some(&token), None, request).await.is_err(), "{reason}");
        let line = server.decision(n);
        assert!(line["reason"].as_str().unwrap().starts_with(reason), "{reason}: {line}");
    }
    let huge = IstioCertificateRequest { csr: "x".repeat(1 << 20), ..Default::default() };
    assert!(call(&server, Some(&token), None, huge).await.is_err(), "a message over the limit");
    let longest = IstioCertificateRequest {
        csr: csr(&[web]),
        validity_duration: i64::MAX,
        metadata: for_identity(web),
    };
    let issued = call(&server, Some(&token), None, longest).await.unwrap();
    let leaf = pem_leaf(&issued.cert_chain[0]);
    let left = leaf.not_after.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(600), "{left:?}");
}

fn pem_leaf(pem: &str) -> adit::identity::Leaf {
    use pki_types::pem::PemObject;
    let der = pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    adit::identity::parse_leaf(&der).unwrap()
}
