//! Access by Rego policies.

use std::{thread, time::Instant};

use nix::sys::signal::Signal;

use crate::{
    backends::{Backend, ask},
    peers::{BOTH, Caller, Demand, tls_backend, tls_echo},
    pki::{Leaf, Pki, as_server},
    process::{Adit, refused},
    wait::{LIMIT, wait_until},
};

/// As policies for ghostunnel are written: version 0.
const BY_NAME: &str = r#"package policy
import input.certificate

default allow = false
allow { certificate.Subject.CommonName == "app" }
allow { certificate.URIs[_].Host == "td.example"; certificate.URIs[_].Path == "/billing" }
"#;

fn hears(pki: &Pki, adit: &Adit, leaf: &Leaf) -> bool {
    Caller::new(&pki.ca, Some(leaf)).says(adit.addr, "hello").is_ok_and(|said| said == "hello")
}

fn policy(pki: &Pki, name: &str, text: impl AsRef<[u8]>) -> String {
    pki.write(name, text);
    format!("--allow-policy {} --allow-query data.policy.allow", pki.at(name))
}

#[test]
fn a_file_of_rego_decides_by_the_certificate() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let billing = pki.ca.leaf("x", |p| {
        p.subject_alt_names.push(crate::pki::uri("spiffe://td.example/billing"));
    });
    let other = pki.ca.leaf("other", |_| {});
    let adit = Adit::start(pki.server(echo.addr) + &policy(&pki, "p.rego", BY_NAME));
    assert!(hears(&pki, &adit, &pki.app));
    assert!(hears(&pki, &adit, &billing));
    assert!(!hears(&pki, &adit, &other));
    adit.logs("the policy does not allow CN=other");
    assert_eq!(echo.taken(), 2, "the application heard of who is not allowed");
}

#[test]
fn a_file_may_be_of_version_1() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let text =
        "package policy\nimport rego.v1\nallow if input.certificate.Subject.CommonName == \"app\"";
    let adit = Adit::start(pki.server(echo.addr) + &policy(&pki, "p.rego", text));
    assert!(hears(&pki, &adit, &pki.app));
    assert!(!hears(&pki, &adit, &pki.ca.leaf("other", |_| {})));
}

#[test]
fn a_bundle_brings_data() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let rego =
        "package policy\nallow { data.teams.ops[_] == input.certificate.Subject.CommonName }";
    let mut bundle = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    for (path, text) in [
        ("policy.rego", rego),
        ("teams/data.json", r#"{"ops": ["app", "db"]}"#),
        (".manifest", r#"{"revision": "1", "roots": [""]}"#),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        bundle.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let bundle = bundle.into_inner().unwrap().finish().unwrap();
    let adit = Adit::start(pki.server(echo.addr) + &policy(&pki, "bundle.tar.gz", bundle));
    assert!(hears(&pki, &adit, &pki.app));
    assert!(!hears(&pki, &adit, &pki.ca.leaf("other", |_| {})));
}

#[test]
fn any_other_rule_is_enough_beside_it() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let flags = policy(&pki, "p.rego", BY_NAME) + " --allow-cn second";
    let adit = Adit::start(pki.server(echo.addr) + &flags);
    assert!(hears(&pki, &adit, &pki.ca.leaf("second", |_| {})));
    assert!(hears(&pki, &adit, &pki.app));
    assert!(!hears(&pki, &adit, &pki.ca.leaf("third", |_| {})));
}

/// `true` and nothing else admits.
#[test]
fn what_is_not_true_admits_nobody() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for text in [
        "allow = 1",
        "allow = \"true\"",
        "allow = {true}",
        "allow { input.certificate.NoSuchField }",
        "allow { 1 / 0 == 1 }",
        "other = true",
    ] {
        let flags = policy(&pki, "p.rego", format!("package policy\n{text}\n"));
        let adit = Adit::start(pki.server(echo.addr) + &flags);
        assert!(!hears(&pki, &adit, &pki.app), "{text}");
    }
    assert_eq!(echo.taken(), 0);
}

/// One that cannot be decided is no answer.
#[test]
fn a_policy_that_fails_admits_nobody() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    // A rule of two values at once, once there is a certificate to look at.
    let text = "package policy\nallow = true { input.certificate.Version == 3 }\n\
                allow = false { input.certificate.Version == 3 }\n";
    let adit = Adit::start(pki.server(echo.addr) + &policy(&pki, "p.rego", text));
    assert!(!hears(&pki, &adit, &pki.app));
    adit.logs("policy_denied … the policy failed: … p.rego");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn a_policy_that_is_wrong_at_start_is_named() {
    let pki = Pki::new();
    for (text, why) in [
        ("package policy\n\nallow {", "p.rego:3"),
        ("allow = true", "p.rego:1"),
        ("package policy\nallow { http.send({}) }", "http.send"),
    ] {
        let flags = policy(&pki, "p.rego", text);
        let (code, said) = refused(&(pki.server("127.0.0.1:1") + &flags));
        assert!(code != 0 && said.contains(why) && said.contains("--allow-policy"), "{said}");
    }
    pki.write("p.rego", BY_NAME);
    let flags = format!("--allow-policy {} --allow-query data[", pki.at("p.rego"));
    let (code, said) = refused(&(pki.server("127.0.0.1:1") + &flags));
    assert!(code != 0 && said.contains("query \"data[\""), "{said}");
    let flags = format!("--allow-policy {} --allow-query data.p", pki.at("none.rego"));
    let (code, said) = refused(&(pki.server("127.0.0.1:1") + &flags));
    assert!(code != 0 && said.contains("none.rego"), "{said}");
}

#[test]
fn a_changed_policy_is_taken_and_a_broken_one_is_not() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + &policy(&pki, "p.rego", BY_NAME));
    let other = pki.ca.leaf("other", |_| {});
    assert!(hears(&pki, &adit, &pki.app) && !hears(&pki, &adit, &other));
    pki.write("p.rego", BY_NAME.replace("\"app\"", "\"other\""));
    adit.logs("changed policies reloaded");
    assert!(!hears(&pki, &adit, &pki.app) && hears(&pki, &adit, &other));
    pki.write("p.rego", "package policy\nallow {");
    adit.logs("changed policies rejected … p.rego:2");
    assert!(!hears(&pki, &adit, &pki.app) && hears(&pki, &adit, &other));
    let seen = adit.lines();
    adit.signal(Signal::SIGHUP);
    adit.logs_since(seen, "reload rejected … p.rego:2");
    assert!(hears(&pki, &adit, &other));
}

/// One caller's decision takes as long as it pleases: that caller is refused in time, and nobody
/// else waits.
#[test]
fn a_slow_policy_holds_up_only_whom_it_is_asked_about() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let text = r#"package policy
allow { input.certificate.Subject.CommonName == "app" }
allow {
  input.certificate.Subject.CommonName == "slow"
  a := numbers.range(1, 3000)[_]
  b := numbers.range(1, 3000)[_]
  a * b == -1
}
"#;
    let flags = policy(&pki, "p.rego", text) + " --connect-timeout 3s";
    let adit = Adit::start(pki.server(echo.addr) + &flags);
    let open = adit.descriptors();
    let slow = pki.ca.leaf("slow", |_| {});
    thread::scope(|scope| {
        let begun = Instant::now();
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| hears(&pki, &adit, &slow))).collect();
        let mut passed = 0;
        while !waiting.iter().any(thread::ScopedJoinHandle::is_finished) {
            assert!(hears(&pki, &adit, &pki.app));
            passed += 1;
        }
        assert!(passed > 3, "others waited: {passed} in {:?}", begun.elapsed());
        for caller in waiting {
            assert!(!caller.join().unwrap());
        }
    });
    adit.logs("not connected after 3s");
    wait_until("descriptors are given back", LIMIT, || adit.descriptors() <= open);
}

#[test]
fn a_client_asks_its_policy_about_the_target() {
    let pki = Pki::new();
    for (name, heard) in [("good", true), ("bad", false)] {
        let leaf = pki.ca.leaf(name, as_server);
        let target = tls_backend(BOTH, &leaf, Demand::Nothing, tls_echo);
        pki.write(
            "p.rego",
            "package policy\nallow { input.certificate.Subject.CommonName == \"good\" }",
        );
        let flags =
            format!("--verify-policy {} --verify-query data.policy.allow", pki.at("p.rego"));
        let adit = Adit::start(pki.client(target.addr) + &flags);
        assert_eq!(ask(adit.addr, b"hello").is_ok_and(|said| said == b"hello"), heard, "{name}");
    }
}
