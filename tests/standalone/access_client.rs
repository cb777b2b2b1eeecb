//! Whom `adit client` speaks to, and what it shows.

use std::sync::mpsc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rcgen::{DnType, ExtendedKeyUsagePurpose as Eku, SerialNumber};

use crate::{
    backends::{Backend, ask},
    peers::{BOTH, Demand, ONLY12, ONLY13, tls_backend, tls_echo},
    pki::{Leaf, Pki, as_server, dns, uri},
    process::Adit,
    wait::{LIMIT, wait_until},
};

/// A TLS server with this certificate, adit in front of it with these flags: whether a question
/// is answered. What was refused must not look like an answer that is empty.
fn reaches(pki: &Pki, leaf: &Leaf, flags: &str) -> bool {
    let far = tls_backend(BOTH, leaf, Demand::Nothing, tls_echo);
    through(pki, &far, flags)
}

fn through(pki: &Pki, far: &Backend, flags: &str) -> bool {
    let target = format!("localhost:{}", far.addr.port());
    let adit = Adit::start(format!("{} {flags}", pki.client(target)));
    match ask(adit.addr, b"hello") {
        Ok(heard) => {
            assert_eq!(heard, b"hello", "{flags}: an end in order with nothing said");
            true
        }
        Err(_) => false,
    }
}

#[test]
fn the_target_must_have_the_name_that_was_called() {
    let pki = Pki::new();
    assert!(reaches(&pki, &pki.server, ""));
    let other = pki.ca.leaf("localhost", |p| p.subject_alt_names = vec![dns("db.example.org")]);
    assert!(!reaches(&pki, &other, ""));
    let only_cn = pki.ca.leaf("localhost", |_| {});
    assert!(!reaches(&pki, &only_cn, ""), "a common name is not a name of a server (RFC 6125)");
}

#[test]
fn an_address_must_be_in_the_certificate_too() {
    let pki = Pki::new();
    for (leaf, answered) in [
        (&pki.server, true),
        (&pki.ca.leaf("x", |p| p.subject_alt_names = vec![dns("localhost")]), false),
        (&pki.ca.leaf("x", |p| p.subject_alt_names = vec![dns("127.0.0.1")]), false),
    ] {
        let far = tls_backend(BOTH, leaf, Demand::Nothing, tls_echo);
        let adit = Adit::start(pki.client(far.addr));
        let heard = ask(adit.addr, b"hello");
        assert_eq!(heard.is_ok_and(|heard| heard == b"hello"), answered);
    }
}

#[test]
fn another_name_may_be_asked_for() {
    let pki = Pki::new();
    let (asked, name) = mpsc::channel();
    let far = tls_backend(BOTH, &pki.server, Demand::Nothing, move |session| {
        let _ = asked.send(session.conn.server_name().map(ToOwned::to_owned));
        tls_echo(session);
    });
    assert!(through(&pki, &far, "--override-server-name db.example.org"));
    assert_eq!(name.recv().unwrap().as_deref(), Some("db.example.org"), "as SNI");
    assert!(!through(&pki, &far, "--override-server-name evil.example.org"));
    assert!(!through(&pki, &far, "--override-server-name 192.0.2.1"));
}

#[test]
fn names_that_were_asked_for_come_on_top_of_the_host_name() {
    let pki = Pki::new();
    for (flags, answered) in [
        ("--verify-cn server", true),
        ("--verify-cn other", false),
        ("--verify-ou databases", true),
        ("--verify-ou other", false),
        ("--verify-dns db.example.org", true),
        ("--verify-dns-san localhost", true),
        ("--verify-dns other.example.org", false),
        ("--verify-uri spiffe://td.test/*", true),
        ("--verify-uri spiffe://td.test/other", false),
        ("--verify-ip 127.0.0.1", true),
        ("--verify-ip 127.0.0.2", false),
        ("--verify-id spiffe://td.test/db", true),
        ("--verify-trust-domain td.test", true),
        ("--verify-trust-domain other.test", false),
        ("--verify-cn other --verify-ou databases", true),
        ("--verify-cn server --override-server-name x.example.org", false),
    ] {
        assert_eq!(reaches(&pki, &pki.server, flags), answered, "{flags}");
    }
}

#[test]
fn a_server_that_nobody_vouches_for_hears_nothing() {
    let pki = Pki::new();
    let heard = mpsc::channel();
    let stranger = Pki::stranger().leaf("server", as_server);
    let far = tls_backend(BOTH, &stranger, Demand::Nothing, move |session| {
        heard.0.send(()).unwrap();
        tls_echo(session);
    });
    assert!(!through(&pki, &far, "--verify-cn server"));
    assert!(heard.1.try_recv().is_err(), "the handshake came to its end");
}

#[test]
fn certificates_of_servers_out_of_time_or_for_another_use_are_refused() {
    let pki = Pki::new();
    let with = |change: fn(&mut rcgen::CertificateParams)| {
        pki.ca.leaf("server", |params| {
            as_server(params);
            change(params);
        })
    };
    assert!(!reaches(&pki, &with(|p| p.not_after = p.not_before), ""));
    assert!(!reaches(&pki, &with(|p| p.not_before = p.not_after), ""));
    assert!(!reaches(&pki, &with(|p| p.extended_key_usages = vec![Eku::ClientAuth]), ""));
    assert!(reaches(&pki, &with(|p| p.extended_key_usages = vec![Eku::ServerAuth]), ""));
}

/// Records and metrics tell a certificate that is not accepted from TLS that fails.
#[test]
fn the_record_says_what_is_wrong_with_the_certificate_of_the_target() {
    let pki = Pki::new();
    pki.write("revoked.crl", pki.ca.crl(&[9]));
    let crl = format!("--crl {}", pki.at("revoked.crl"));
    let with = |change: fn(&mut rcgen::CertificateParams)| {
        pki.ca.leaf("server", |params| {
            as_server(params);
            change(params);
        })
    };
    for (leaf, flags, reason) in [
        (with(|p| p.not_after = p.not_before), "", "svid_expired"),
        (with(|p| p.serial_number = Some(SerialNumber::from(9))), &crl, "svid_revoked"),
        (with(|p| p.subject_alt_names = vec![dns("db.example.org")]), "", "identity_mismatch"),
        (Pki::stranger().leaf("server", as_server), "", "untrusted_svid"),
    ] {
        let far = tls_backend(BOTH, &leaf, Demand::Nothing, tls_echo);
        let target = format!("localhost:{}", far.addr.port());
        let adit = Adit::start(format!("{} {flags}", pki.client(target)));
        assert!(ask(adit.addr, b"hello").is_err(), "{reason}");
        adit.logs(&format!("connection denied … reason=\"{reason}\""));
    }
}

/// The target refuses what adit shows: TLS 1.3 says so after the handshake.
#[test]
fn a_refusal_by_the_target_is_a_sentence_in_both_versions() {
    let pki = Pki::new();
    let stranger = Pki::stranger();
    for versions in [ONLY12, ONLY13] {
        let far = tls_backend(versions, &pki.server, Demand::Of(&stranger), tls_echo);
        let adit = Adit::start(pki.client(format!("localhost:{}", far.addr.port())));
        assert!(ask(adit.addr, b"hello").is_err());
        adit.logs("with alert UnknownCA: it does not trust the CA of our certificate");
    }
}

#[test]
fn a_revoked_server_is_refused() {
    let pki = Pki::new();
    let server = pki.ca.leaf("server", |params| {
        as_server(params);
        params.serial_number = Some(SerialNumber::from(9));
    });
    pki.write("revoked.crl", pki.ca.crl(&[9]));
    pki.write("empty.crl", pki.ca.crl(&[]));
    assert!(!reaches(&pki, &server, &format!("--crl {}", pki.at("revoked.crl"))));
    assert!(reaches(&pki, &server, &format!("--crl {}", pki.at("empty.crl"))));
}

#[test]
fn a_pinned_server_needs_no_name_and_no_root() {
    let pki = Pki::new();
    let own = Pki::stranger().leaf("x", |p| p.not_after = p.not_before);
    let pin = |leaf: &Leaf| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf.spki);
        format!("--verify-spki-pin sha256:{}", BASE64.encode(hash.as_ref()))
    };
    assert!(reaches(&pki, &own, &pin(&own)));
    assert!(!reaches(&pki, &pki.server, &pin(&own)));
    assert!(reaches(&pki, &pki.server, &format!("{} {}", pin(&own), pin(&pki.server))));
}

#[test]
fn the_certificate_is_shown_unless_it_is_not_to_be() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), |mut session| {
        let shown = session.conn.peer_certificates().map_or(0, <[_]>::len);
        assert_eq!(shown, 1);
        let _ = session.hear(5);
        tls_echo(session);
    });
    let target = format!("localhost:{}", far.addr.port());
    let shown = Adit::start(pki.client(&target));
    assert!(ask(shown.addr, b"12345hello").is_ok_and(|heard| heard == b"hello"));
    let hidden = Adit::start(pki.client(&target) + "--disable-authentication");
    let heard = ask(hidden.addr, b"12345hello");
    assert!(heard.is_err(), "a refusal by alert is no end in order: {heard:?}");
    hidden.logs("alert");
}

#[test]
fn a_client_needs_no_certificate_of_its_own() {
    let pki = Pki::new();
    let far = tls_backend(BOTH, &pki.server, Demand::Nothing, tls_echo);
    let adit = Adit::start(format!(
        "client --listen 127.0.0.1:0 --target localhost:{} --cacert {} --disable-authentication",
        far.addr.port(),
        pki.at("ca.pem")
    ));
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
}

#[test]
fn servers_of_either_version_are_spoken_to() {
    let pki = Pki::new();
    for (versions, flags, answered) in [
        (ONLY12, "", true),
        (ONLY13, "", true),
        (ONLY12, "--max-tls-version TLS1.2", true),
        (ONLY13, "--max-tls-version TLS1.2", false),
        (ONLY12, "--min-tls-version TLS1.3", false),
        (ONLY13, "--min-tls-version TLS1.3", true),
    ] {
        let far = tls_backend(versions, &pki.server, Demand::Of(&pki.ca), tls_echo);
        assert_eq!(through(&pki, &far, flags), answered, "{flags}");
    }
}

/// A name that proves nothing by itself: units and common names count only below a trusted root,
/// and one URI in a certificate does not make it somebody else's.
#[test]
fn the_wrong_server_with_the_right_host_name_is_refused() {
    let pki = Pki::new();
    let web = pki.ca.leaf("web", |p| {
        p.distinguished_name.push(DnType::OrganizationalUnitName, "web");
        p.subject_alt_names = vec![dns("localhost"), uri("spiffe://td.test/web")];
    });
    assert!(reaches(&pki, &web, ""));
    assert!(!reaches(&pki, &web, "--verify-uri spiffe://td.test/db"));
    assert!(!reaches(&pki, &web, "--verify-ou databases --verify-cn server"));
}

#[test]
fn a_target_that_is_no_tls_server_is_an_error_for_the_application() {
    let pki = Pki::new();
    for far in [
        Backend::greeting("220 mail.example.org ESMTP\r\n"),
        Backend::start(drop),
        Backend::greeting(""),
    ] {
        let adit = Adit::start(format!("{} --connect-timeout 5s", pki.client(far.addr)));
        let heard = ask(adit.addr, b"hello");
        assert!(heard.is_err(), "{heard:?}");
        adit.logs("tls_failure");
    }
}

/// The target has a second to hear that it is refused, and the record is not that this takes time.
#[test]
fn a_target_refused_in_the_last_second_of_the_connect_timeout_is_not_late() {
    let pki = Pki::new();
    // It does not end when it is refused.
    let far = tls_backend(ONLY13, &pki.server, Demand::Of(&pki.ca), |session| {
        std::thread::sleep(std::time::Duration::from_secs(3));
        drop(session);
    });
    let flags = "--verify-cn nobody --connect-timeout 900ms";
    let adit = Adit::start(format!("{} {flags}", pki.client(far.addr)));
    // On a busy machine a handshake may take longer than that.
    let refused = (0..20).any(|n| {
        let _ = ask(adit.addr, b"hello");
        wait_until("it is recorded", LIMIT, || adit.count("direction=\"outbound\"") > n);
        adit.count("matches no rule") > 0
    });
    assert!(refused);
}
