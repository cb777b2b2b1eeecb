//! A pod cannot be impersonated, in either role: each attempt has its own close reason.

use std::time::Duration;

use http::{Method, Request};
use rcgen::{BasicConstraints, IsCa};

use crate::{
    forge::{answer_one, forge, request, two_requests, uncaptured},
    lab::Lab,
    mesh::{MESH, PODS, lab},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("impersonation::clients_with_bad_certificates", clients),
    ("impersonation::requests_that_are_not_for_this_pod", requests),
    ("impersonation::an_svid_that_expires_under_an_open_tunnel_opens_nothing_more", expiry),
    ("impersonation::servers_that_are_somebody_else", servers),
    ("impersonation::workload_and_service_are_named_where_they_are_proven", named),
];

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SPY: &str = "spiffe://cluster.local/ns/shop/sa/spy";

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

fn clients() {
    type Change = fn(&mut rcgen::CertificateParams);
    let lab = lab(&["web"]);
    let past = |p: &mut rcgen::CertificateParams| {
        p.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(5);
    };
    let cases: [(&str, &[&str], Change); 5] = [
        ("unknown_trust_domain", &["spiffe://evil.test/ns/shop/sa/web"], |_| ()),
        ("multiple_uri_sans", &[WEB, "spiffe://cluster.local/ns/shop/sa/db"], |_| ()),
        ("svid_expired", &[WEB], past),
        ("ca_as_leaf", &[WEB], |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("invalid_svid", &["spiffe://cluster.local"], |_| ()),
    ];
    for (reason, uris, change) in cases {
        let forged = forge(&lab, uris, change);
        let socket = uncaptured(&lab, "10.77.0.2:15008");
        let answer = request(socket, forged, connect("10.77.0.2:8080"));
        assert!(answer.is_err(), "{reason}: {answer:?}");
        lab.record("inbound", reason);
    }
    // The tools work: a good certificate is let in, and the spy's own is known as the spy's.
    let good = forge(&lab, &[WEB], |_| ());
    let socket = uncaptured(&lab, "10.77.0.2:15008");
    assert_eq!(request(socket, good, connect("10.77.0.2:8080")), Ok(200));
    let spy = forge(&lab, &["spiffe://cluster.local/ns/shop/sa/spy"], |_| ());
    let socket = uncaptured(&lab, "10.77.0.2:15008");
    assert_eq!(request(socket, spy, connect("10.77.0.2:8080")), Ok(401));
}

fn requests() {
    let lab = lab(&["web"]);
    let get = Request::builder().uri("https://10.77.0.2:8080/").body(()).unwrap();
    for (asked, status, reason) in [
        (connect("10.77.0.1:8080"), 400, "authority_mismatch"),
        (connect("10.77.0.2:15006"), 503, "direct_call"),
        (connect("none.shop.svc.cluster.local:80"), 503, "authority_mismatch"),
        (connect("db.shop.svc.cluster.local:80"), 200, ""),
        (connect("10.77.0.2:9"), 503, "connect_failure"),
        (get, 400, "bad_connect"),
    ] {
        let text = asked.uri().to_string();
        let socket = uncaptured(&lab, "10.77.0.2:15008");
        let answer = request(socket, forge(&lab, &[WEB], |_| ()), asked);
        assert_eq!(answer, Ok(status), "{text}");
        if !reason.is_empty() {
            lab.record("inbound", reason);
        }
    }
}

fn expiry() {
    let lab = lab(&["web"]);
    let short = forge(&lab, &[WEB], |p| {
        p.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(3);
    });
    let socket = uncaptured(&lab, "10.77.0.2:15008");
    let pause = Duration::from_secs(4);
    // GOAWAY came ahead of the end: a caller that pools dials anew, with its next SVID.
    let between = async { tokio::time::sleep(pause).await };
    assert_eq!(two_requests(socket, short, "10.77.0.2:8080", between), [200, 0]);
}

/// db is on another node here, and whoever sits there shows the wrong certificate.
fn servers() {
    let elsewhere = MESH
        .replace("netns: db,", "node: node-b,")
        .replace("netns: web }", "netns: web, node: node-a }");
    for (reason, uri) in [
        ("identity_mismatch", "spiffe://cluster.local/ns/shop/sa/spy"),
        ("unknown_trust_domain", "spiffe://evil.test/ns/shop/sa/db"),
    ] {
        let mut lab = Lab::new(PODS);
        lab.start(&format!("node: node-a\n{elsewhere}"));
        answer_one(lab.listen("db", 15008), forge(&lab, &[uri], |_| ()));
        assert!(lab.ask("web", "10.77.0.2:8080").is_err());
        lab.record("outbound", reason);
    }
}

/// The spy's address is the spy's, whose SVID ever is shown from there; and the service that a
/// caller says it meant is that only if this pod is behind it.
fn named() {
    let lab = lab(&["web", "spy"]);
    let nobody_listens = "10.77.0.2:9";
    let service = |name: &str| format!("for=10.77.0.3;host={name}.shop.svc.cluster.local");
    let cases = [
        (WEB, service("db"), [None, Some("db.shop.svc.cluster.local")]),
        (WEB, service("none"), [None, None]),
        (SPY, service("db"), [Some("spy"), Some("db.shop.svc.cluster.local")]),
        (SPY, service("nowhere"), [Some("spy"), None]),
    ];
    for (n, (id, forwarded, [workload, service])) in cases.into_iter().enumerate() {
        let asked = Request::builder().method(Method::CONNECT).uri(nobody_listens);
        let asked = asked.header("forwarded", forwarded).body(()).unwrap();
        let socket = uncaptured(&lab, "10.77.0.2:15008");
        assert_eq!(request(socket, forge(&lab, &[id], |_| ()), asked), Ok(503));
        let records = || lab.records("inbound", "connect_failure");
        lab.wait("recorded", || records().len() == n + 1);
        let record = &records()[n];
        assert_eq!(record["src.identity"], id);
        assert_eq!(record["src.workload"].as_str(), workload, "{record}");
        assert_eq!(record["dst.service"].as_str(), service, "{record}");
    }
}
