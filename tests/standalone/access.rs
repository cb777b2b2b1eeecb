//! Whom `adit server` lets in.

use std::io::{Read, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rcgen::{DnType, ExtendedKeyUsagePurpose as Eku, SerialNumber};

use crate::{
    backends::{Backend, dial},
    peers::{Caller, ONLY12, ONLY13},
    pki::{Leaf, Pki, as_app, dns, ip, uri},
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// One server with these flags; who comes with `yes` gets an answer, who comes with `no` does not,
/// and the application hears nothing of the latter.
fn admits(pki: &Pki, flags: &str, yes: &[&Leaf], no: &[&Leaf]) {
    let echo = Backend::echo();
    let adit = Adit::start(format!("{} {flags}", pki.server(echo.addr)));
    for leaf in yes {
        let said = Caller::new(&pki.ca, Some(leaf)).says(adit.addr, "hello");
        assert_eq!(said.unwrap(), "hello", "{flags}");
    }
    for leaf in no {
        let said = Caller::new(&pki.ca, Some(leaf)).says(adit.addr, "hello");
        assert!(said.is_err(), "{flags}: {said:?}");
    }
    assert_eq!(echo.taken(), yes.len(), "{flags}: the application heard of the others");
}

#[test]
fn allow_all_is_everybody_whom_the_ca_knows() {
    let pki = Pki::new();
    let nobody = pki.ca.leaf("nobody", |_| {});
    let stranger = Pki::stranger().leaf("app", as_app);
    admits(&pki, "--allow-all", &[&pki.app, &nobody], &[&stranger]);
}

#[test]
fn a_common_name_is_compared_exactly() {
    let pki = Pki::new();
    let others = ["App", "app2", "ap", "app ", "*", ""].map(|cn| pki.ca.leaf(cn, |_| {}));
    let stranger = Pki::stranger().leaf("app", |_| {});
    let no: Vec<&Leaf> = others.iter().chain([&stranger]).collect();
    admits(&pki, "--allow-cn app", &[&pki.app], &no);
    admits(&pki, "--allow-cn *", &[&others[4]], &[&pki.app]);
}

#[test]
fn any_of_several_rules_is_enough() {
    let pki = Pki::new();
    let second = pki.ca.leaf("second", |_| {});
    let by_unit = pki.ca.leaf("third", |params| {
        params.distinguished_name.push(DnType::OrganizationalUnitName, "ops");
    });
    let nobody = pki.ca.leaf("nobody", |_| {});
    let flags = "--allow-cn first --allow-cn second --allow-dns app.example.org --allow-ou ops";
    admits(&pki, flags, &[&pki.app, &second, &by_unit], &[&nobody]);
}

/// An owner without SPIFFE IDs sees in the log who was there, and by which rule.
#[test]
fn the_record_names_who_has_no_spiffe_id() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn legacy");
    let legacy = pki.ca.leaf("legacy", |_| {});
    assert_eq!(Caller::new(&pki.ca, Some(&legacy)).says(adit.addr, "hello").unwrap(), "hello");
    let line = adit.logs("peer.subject=\"CN=legacy\" … policy=\"cn\" … completed");
    // What only a mesh knows is not there, empty or not.
    assert!(line.contains("dst.service=\"server\""), "{line}");
    assert!(!line.contains(".workload=") && !line.contains(".namespace="), "{line}");
    let other = pki.ca.leaf("other", |p| p.subject_alt_names = vec![dns("other.example.org")]);
    assert!(Caller::new(&pki.ca, Some(&other)).says(adit.addr, "hello").is_err());
    adit.logs(
        "policy_denied … CN=other matches no rule (there are rules for cn); its certificate shows \
         CN 'other', DNS 'other.example.org'",
    );
}

#[test]
fn an_organizational_unit_is_compared_exactly() {
    let pki = Pki::new();
    let other = pki.ca.leaf("billing", |params| {
        params.distinguished_name.push(DnType::OrganizationalUnitName, "billing-test");
    });
    admits(&pki, "--allow-ou billing", &[&pki.app], &[&other]);
}

#[test]
fn a_dns_name_is_one_of_the_certificate_not_its_common_name() {
    let pki = Pki::new();
    let only_cn = pki.ca.leaf("app.example.org", |_| {});
    let wildcard = pki.ca.leaf("w", |p| p.subject_alt_names = vec![dns("*.example.org")]);
    let below = pki.ca.leaf("b", |p| p.subject_alt_names = vec![dns("x.app.example.org")]);
    admits(&pki, "--allow-dns app.example.org", &[&pki.app], &[&only_cn, &wildcard, &below]);
}

#[test]
fn wildcards_in_uris_stand_for_segments() {
    let pki = Pki::new();
    let of = |text: &str| pki.ca.leaf("x", |p| p.subject_alt_names = vec![uri(text)]);
    let (short, other, deep) = (
        of("spiffe://td.test/apps/billing"),
        of("spiffe://other.test/apps/billing/7"),
        of("spiffe://td.test/apps/billing/7/8"),
    );
    admits(&pki, "--allow-uri spiffe://td.test/apps/*/7", &[&pki.app], &[&short, &other, &deep]);
    admits(&pki, "--allow-uri spiffe://td.test/apps/**", &[&pki.app, &short, &deep], &[&other]);
    admits(&pki, "--allow-uri spiffe://td.test/apps/billing/", &[&short], &[&pki.app]);
}

#[test]
fn an_address_in_the_certificate_is_not_that_of_the_socket() {
    let pki = Pki::new();
    let loopback = pki.ca.leaf("x", |p| p.subject_alt_names = vec![ip("127.0.0.1")]);
    admits(&pki, "--allow-ip 192.0.2.7", &[&pki.app], &[&loopback]);
    admits(&pki, "--allow-ip-san 127.0.0.1", &[&loopback], &[&pki.app]);
}

#[test]
fn spiffe_ids_and_trust_domains() {
    let pki = Pki::new();
    let of = |text: &str| pki.ca.leaf("x", |p| p.subject_alt_names = vec![uri(text)]);
    let (same, other) = (of("spiffe://td.test/x"), of("spiffe://td.test.evil/x"));
    let two = pki.ca.leaf("x", |p| {
        p.subject_alt_names =
            vec![uri("spiffe://td.test/apps/billing/7"), uri("spiffe://td.test/x")];
    });
    let id = "--allow-id spiffe://td.test/apps/billing/7";
    admits(&pki, id, &[&pki.app], &[&same, &other, &two]);
    admits(&pki, "--allow-trust-domain td.test", &[&pki.app, &same], &[&other, &two]);
}

#[test]
fn a_client_without_certificate_is_refused_in_both_versions() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    for versions in [ONLY12, ONLY13] {
        let nameless = Caller::speaking(versions, &pki.ca, None);
        assert!(nameless.says(adit.addr, "hello").is_err());
        adit.logs("no_peer_certificate");
    }
    assert_eq!(echo.taken(), 0);
}

#[test]
fn certificates_out_of_time_or_for_another_use_are_refused() {
    let pki = Pki::new();
    let expired = pki.ca.leaf("app", |p| p.not_after = p.not_before);
    let future = pki.ca.leaf("app", |p| p.not_before = p.not_after);
    let servers = pki.ca.leaf("app", |p| p.extended_key_usages = vec![Eku::ServerAuth]);
    let clients = pki.ca.leaf("app", |p| p.extended_key_usages = vec![Eku::ClientAuth]);
    admits(&pki, "--allow-cn app", &[&clients], &[&expired, &future, &servers]);
}

/// Records and metrics tell a certificate that is not accepted from TLS that fails.
#[test]
fn the_record_of_a_refused_client_says_what_is_wrong_with_its_certificate() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(format!("{} --allow-all", pki.server(echo.addr)));
    for (leaf, reason) in [
        (pki.ca.leaf("app", |p| p.not_after = p.not_before), "svid_expired"),
        (pki.ca.leaf("app", |p| p.not_before = p.not_after), "svid_expired"),
        (pki.ca.leaf("app", |p| p.extended_key_usages = vec![Eku::ServerAuth]), "invalid_svid"),
        (Pki::stranger().leaf("app", as_app), "untrusted_svid"),
    ] {
        let seen = adit.lines();
        assert!(Caller::new(&pki.ca, Some(&leaf)).says(adit.addr, "hello").is_err(), "{reason}");
        adit.logs_since(seen, &format!("connection denied … reason=\"{reason}\""));
    }
    assert_eq!(adit.count("tls_failure"), 0);
}

#[test]
fn a_chain_must_reach_the_root_by_what_is_shown() {
    let pki = Pki::new();
    let between = pki.ca.below("department");
    let alone = between.leaf("app", as_app);
    let mut whole = alone.clone();
    whole.chain.push(between.root.clone());
    admits(&pki, "--allow-cn app", &[&whole], &[&alone]);
}

#[test]
fn a_leaf_cannot_issue_another() {
    let pki = Pki::new();
    // A company's app plays CA: its own certificate is not a CA's.
    let forged = Pki::stranger().leaf("admin", |_| {});
    let mut chain = forged.clone();
    chain.chain.push(pki.app.chain[0].clone());
    admits(&pki, "--allow-cn admin", &[], &[&chain]);
}

#[test]
fn a_pinned_key_is_enough_and_nothing_else_is() {
    let pki = Pki::new();
    let other = Pki::stranger();
    let (pinned, same_name) = (other.leaf("x", |p| p.not_after = p.not_before), &pki.app);
    let pin = |digest, leaf: &Leaf| {
        let hash = aws_lc_rs::digest::digest(digest, &leaf.spki);
        BASE64.encode(hash.as_ref())
    };
    for (name, digest) in [
        ("sha256", &aws_lc_rs::digest::SHA256),
        ("sha384", &aws_lc_rs::digest::SHA384),
        ("sha512", &aws_lc_rs::digest::SHA512),
    ] {
        let flag = format!("--allow-spki-pin {name}:{}", pin(digest, &pinned));
        admits(&pki, &flag, &[&pinned], &[same_name]);
    }
}

/// A pin replaces chain and names, not the proof that the client has the key.
#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    let pki = Pki::new();
    let mut thief = pki.app.clone();
    thief.chain = vec![pki.server.chain[0].clone()];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pki.server.spki);
    let flag = format!("--allow-spki-pin sha256:{}", BASE64.encode(hash.as_ref()));
    let echo = Backend::echo();
    let adit = Adit::start(format!("{} {flag}", pki.server(echo.addr)));
    let config = crate::peers::careless(&pki.ca, &thief.chain, pki.app.key());
    for _ in 0..2 {
        assert!(config.says(adit.addr, "hello").is_err());
    }
    assert_eq!(Caller::new(&pki.ca, Some(&pki.server)).says(adit.addr, "hi").unwrap(), "hi");
    assert_eq!(echo.taken(), 1);
}

#[test]
fn a_revoked_certificate_is_refused() {
    let pki = Pki::new();
    let of =
        |serial: u64| pki.ca.leaf("app", |p| p.serial_number = Some(SerialNumber::from(serial)));
    let (good, revoked) = (of(7), of(8));
    pki.write("revoked.crl", pki.ca.crl(&[8]));
    let flags = format!("--allow-cn app --crl {}", pki.at("revoked.crl"));
    admits(&pki, &flags, &[&good], &[&revoked]);
}

#[test]
fn without_authentication_no_certificate_is_asked_for() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--disable-authentication");
    let stranger = Pki::stranger().leaf("x", |_| {});
    for leaf in [None, Some(&pki.app), Some(&stranger)] {
        assert_eq!(Caller::new(&pki.ca, leaf).says(adit.addr, "hello").unwrap(), "hello");
    }
}

#[test]
fn a_client_that_may_not_be_here_is_told_so() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn nobody");
    let caller = Caller::speaking(ONLY13, &pki.ca, Some(&pki.app));
    let heard = caller.dial(adit.addr).and_then(|mut session| session.rest());
    let error = heard.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    adit.logs("policy_denied … spiffe://td.test/apps/billing/7 … matches no rule");
}

/// In TLS 1.2 the handshake is over before we know: what follows must not look like a server
/// that had nothing to say.
#[test]
fn a_refusal_in_tls_12_is_no_end_in_order() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn nobody");
    let caller = Caller::speaking(ONLY12, &pki.ca, Some(&pki.app));
    let heard = caller.dial(adit.addr).and_then(|mut session| session.rest());
    assert!(heard.is_err(), "{heard:?}");
    adit.logs("policy_denied");
    assert_eq!(echo.taken(), 0);
}

/// `--listen :PORT` is one socket for both families, where IPv4 comes in IPv6's dress; and a policy
/// may dress it so, too.
#[test]
fn a_policy_by_address_holds_on_a_listener_for_both_families() {
    let pki = Pki::new();
    for block in ["127.0.0.0/8", "::ffff:127.0.0.0/104"] {
        for when in ["source.ip", "destination.ip", "ipBlocks"] {
            let rule = match when {
                "ipBlocks" => format!("from: [{{ source: {{ ipBlocks: ['{block}'] }} }}]"),
                key => format!("when: [{{ key: {key}, values: ['{block}'] }}]"),
            };
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{ name: d }}\nspec: {{ action: DENY, rules: [{{ {rule} }}] }}\n"
            );
            std::fs::write(pki.path("deny.yaml"), text).unwrap();
            let echo = Backend::echo();
            let adit = Adit::start(format!(
                "server --listen :0 --target {} {} --allow-all --allow-authorization-policy {}",
                echo.addr,
                pki.showing("server"),
                pki.at("deny.yaml")
            ));
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], adit.addr.port()));
            let said = Caller::new(&pki.ca, Some(&pki.app)).says(to, "hello");
            assert!(said.is_err(), "{block} by {when}: {said:?}");
            adit.logs("policy_denied");
            assert_eq!(echo.taken(), 0);
        }
    }
}

#[test]
fn bytes_that_are_not_tls_are_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all");
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x03\x01\0\0"] {
        let mut socket = dial(adit.addr);
        std::io::Write::write_all(&mut socket, words).unwrap();
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        assert!(heard.len() < 64, "an alert at most: {heard:?}");
    }
    adit.logs("bytes that are not TLS");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn tls_12_may_be_the_newest_version() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --max-tls-version TLS1.2");
    let with = |versions| Caller::speaking(versions, &pki.ca, Some(&pki.app));
    assert!(with(ONLY13).says(adit.addr, "hello").is_err());
    assert_eq!(with(ONLY12).says(adit.addr, "hello").unwrap(), "hello");
    adit.logs("TLSv1.2 … completed");
}

#[test]
fn tls_13_may_be_the_oldest_version() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for flag in ["--min-tls-version TLS1.3", "--tls-min-version 1.3"] {
        let adit = Adit::start(pki.server(echo.addr) + "--allow-all " + flag);
        let with = |versions| Caller::speaking(versions, &pki.ca, Some(&pki.app));
        assert!(with(ONLY12).says(adit.addr, "hello").is_err());
        assert_eq!(with(ONLY13).says(adit.addr, "hello").unwrap(), "hello");
        adit.logs("TLSv1.3 … completed");
    }
}

/// What a peer writes into its certificate cannot write into the log.
#[test]
fn names_with_line_breaks_stay_in_their_line() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let forger = pki.ca.leaf("x\n2026-01-01T00:00:00Z  INFO access: policy=\"cn\" forged", |_| {});
    assert!(Caller::new(&pki.ca, Some(&forger)).says(adit.addr, "hello").is_err());
    assert!(adit.logs("policy_denied").contains("forged"));
    assert_eq!(adit.count("forged"), 1);
    assert!(adit.log().lines().all(|line| !line.starts_with("2026-01-01T00:00:00Z")));
}

/// What resumes a session is not judged anew.
#[test]
fn sessions_are_not_resumed() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    for versions in [ONLY13, ONLY12] {
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        for n in 0..3 {
            let mut session = caller.dial(adit.addr).unwrap();
            session.write_all(b"hello").unwrap();
            assert_eq!(session.hear(5).unwrap(), b"hello");
            assert_eq!(session.conn.handshake_kind(), Some(rustls::HandshakeKind::Full), "{n}");
            assert_eq!(session.conn.tls13_tickets_received(), 0);
            session.end().unwrap();
            session.rest().unwrap();
        }
    }
}

/// Whoever was refused has a second to hear it, and the record is not that this takes time.
#[test]
fn a_refusal_in_the_last_second_of_the_connect_timeout_is_not_a_timeout() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app --connect-timeout 900ms");
    // On a busy machine a handshake may take longer than that; none of these ends when refused.
    let refused = (0..20).any(|n| {
        let _session = Caller::speaking(ONLY13, &pki.ca, None).over(dial(adit.addr));
        wait_until("it is recorded", LIMIT, || adit.count("direction=\"inbound\"") > n);
        adit.count("no_peer_certificate") > 0
    });
    assert!(refused);
}
