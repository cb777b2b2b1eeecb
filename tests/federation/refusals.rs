//! What is refused, each with its reason; the last good bundle stays, and so does the very set.

use std::sync::Arc;

use serde_json::json;

use crate::endpoint::{Endpoint, Foreign, Ours, by_svid, ok, redirect};

#[tokio::test]
async fn a_bad_answer_changes_nothing_and_says_why() {
    let other = Foreign::new("other.td");
    let good = Endpoint::start(other.svid("ep")).await;
    let imposter = Endpoint::start(other.svid("web")).await;
    imposter.gives(&other.document(99));
    let ours = Ours::new(None);
    good.gives(&other.document(5));
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &good.url("/"), other.id("ep"), &first)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(5)).await;
    let before = ours.set();
    let huge = format!("{{\"keys\": [], \"x\": \"{}\"}}", "a".repeat(4 << 20));
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut chunked = endless.to_vec();
    for _ in 0..5 {
        chunked.extend(format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20)).into_bytes());
    }
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let empty = "HTTP/1.1 302 Found\r\n\r\n".to_owned();
    for (answer, expected) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(), "answered 404 Not Found"),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".into(), "answered 500"),
        ("HTTP/1.1 204 No Content\r\n\r\n".into(), "answered 204"),
        (redirect("http://127.0.0.1/").into_bytes(), "must begin with https://"),
        (redirect("https://a@127.0.0.1/").into_bytes(), "must not have a user"),
        (redirect(&imposter.url("/")).into_bytes(), "spiffe://other.td/web"),
        (empty.into(), "is not followed"),
        (ok(&huge).into(), "more than 4194304 bytes"),
        (chunked, "more than 4194304 bytes"),
        (head.into(), "no HTTP answer"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into(), "no HTTP answer"),
        (b"SSH-2.0-x\r\n".to_vec(), "no HTTP answer"),
        (ok("").into(), "is not a bundle"),
        (ok("[]").into(), "is not a bundle"),
        (ok("{}").into(), "is not a bundle"),
        (ok("{\"keys\": 1}").into(), "is not a bundle"),
        (ok(&other.document(4).to_string()).into(), "went back from 5 to 4"),
    ] {
        good.says(answer);
        ours.refresh("other.td");
        ours.until_error("other.td", expected).await;
        assert!(Arc::ptr_eq(&ours.set(), &before), "{expected}: the set is the same one");
        assert_eq!(ours.status("other.td").state, "Available");
    }
    assert_eq!(imposter.visits(), 0, "nothing was asked of somebody else");
    // And it comes back by itself.
    good.gives(&other.document(6));
    ours.refresh("other.td");
    ours.until("fetched", |o| o.sequence("other.td") == Some(6)).await;
    assert_eq!(ours.status("other.td").last_error, None);
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_is_told_nothing() {
    let other = Foreign::new("other.td");
    let evil = Foreign::new("other.td"); // the same name, another root
    let third = Foreign::new("third.td");
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    for (shown, expected) in [
        (other.svid("web"), "spiffe://other.td/web"),
        (evil.svid("ep"), "its certificate names spiffe://other.td/ep"),
        (third.svid("ep"), "third.td"),
    ] {
        let endpoint = Endpoint::start(shown).await;
        endpoint.gives(&evil.document(9));
        let at = by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first);
        ours.federation.apply(&[at]);
        ours.until_error("other.td", expected).await;
        assert_eq!((ours.sequence("other.td"), endpoint.visits()), (Some(1), 0), "{expected}");
    }
    let at = by_svid(&other.domain, "https://127.0.0.1:1/", other.id("ep"), &first);
    ours.federation.apply(&[at]);
    ours.until_error("other.td", "cannot be reached").await;
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_given_up_on() {
    let other = Foreign::new("other.td");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &url, other.id("ep"), &first)]);
    ours.until_error("other.td", "no answer within 10s").await;
}

#[tokio::test]
async fn a_bundle_without_authorities_trusts_nobody() {
    let other = Foreign::new("other.td");
    let endpoint = Endpoint::start(other.svid("ep")).await;
    endpoint.gives(&json!({ "keys": [], "spiffe_sequence": 2 }));
    let ours = Ours::new(None);
    let first = other.bundle_file(1);
    ours.federation.apply(&[by_svid(&other.domain, &endpoint.url("/"), other.id("ep"), &first)]);
    ours.until("fetched", |o| o.sequence("other.td") == Some(2)).await;
    assert_eq!(ours.bundle("other.td").unwrap().authorities, []);
    ours.refresh("other.td");
    ours.until_error("other.td", "is not trusted").await;
}
