//! Certificates, keys and CRLs in files that are damaged, or of the kind that must not be trusted.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    backends::Backend,
    peers::Caller,
    pki::{Leaf, Pki},
    process::{Adit, refused},
};

fn text(pki: &Pki, name: &str) -> String {
    std::fs::read_to_string(pki.path(name)).unwrap()
}

/// Whether a piece of a key that could only be from there is in what was said.
fn holds_some_of(said: &str, key: &str) -> bool {
    let base64: String = key.lines().filter(|l| !l.starts_with('-')).collect();
    // What all keys of a kind begin with is not secret.
    base64.as_bytes()[48..].windows(8).any(|w| {
        let listed = format!("{w:?}");
        let w = std::str::from_utf8(w).unwrap();
        said.contains(w) || said.contains(listed.trim_matches(['[', ']']))
    })
}

/// As an environment variable or a folded scalar of YAML leaves them.
#[test]
fn a_key_that_cannot_be_parsed_is_never_printed() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (crt, key) = (text(&pki, "server.crt"), text(&pki, "server.key"));
    let forms = [
        key.replace('\n', ""),
        key.replace('\n', " "),
        key.replace('\n', "\\n"),
        key.replace("-----END", "*-----END"),
        key.replace("-----BEGIN PRIVATE KEY-----", ""),
        key.replacen('\n', "\n*", 2),
        key.replace("\nM", "\nN"),
        key.replace("PRIVATE KEY", "RSA PRIVATE KEY"),
        key.replace("PRIVATE KEY-----\n", "PRIVATE KEY"),
    ];
    let rest = format!("{} --allow-all", pki.server(echo.addr));
    let adit = Adit::start(&rest);
    let store = format!(
        "server --listen 127.0.0.1:0 --target {} --allow-all --cacert {} --keystore {}",
        echo.addr,
        pki.at("ca.pem"),
        pki.at("both.pem")
    );
    for form in forms {
        pki.write("server.key", &form);
        pki.write("both.pem", format!("{form}\n{crt}"));
        for args in [&rest, &store] {
            let (code, said) = refused(args);
            assert!(code != 0 && said.contains(".key") || said.contains("both.pem"), "{said}");
            assert!(!holds_some_of(&said, &key), "{said}");
        }
        let seen = adit.lines();
        adit.signal(Signal::SIGHUP);
        adit.logs_since(seen, "reload rejected … server.key");
    }
    adit.signal(Signal::SIGTERM);
    let log = adit.rest_of_log();
    assert!(!holds_some_of(&log, &key), "{log}");
}

fn gets_in(pki: &Pki, adit: &Adit, leaf: &Leaf) -> bool {
    Caller::new(&pki.ca, Some(leaf)).says(adit.addr, "hello").is_ok()
}

/// Two lists joined by `cat`, the second of which revokes the client: at a start and at a reload.
#[test]
fn no_form_of_a_crl_file_lets_a_revoked_client_in() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let of = |n: u64| pki.ca.leaf("app", |p| p.serial_number = Some(rcgen::SerialNumber::from(n)));
    let (good, revoked) = (of(7), of(8));
    let (first, second) = (Pki::stranger().crl(&[8]), pki.ca.crl(&[8]));
    let flags = format!("--allow-all --crl {}", pki.at("a.crl"));
    let args = pki.server(echo.addr) + &flags;
    pki.write("a.crl", &first);
    let running = Adit::start(&args);
    assert!(gets_in(&pki, &running, &revoked), "not revoked yet");
    for whole in [
        format!("{}{second}", first.trim_end()),
        format!("\u{feff}{second}"),
        format!("{first}\u{20}\u{20}{}", second.replace('\n', "\n  ")),
        format!("{first}{second}").replace('\n', "\r\n"),
    ] {
        pki.write("a.crl", &whole);
        let adit = Adit::start(&args);
        assert!(gets_in(&pki, &adit, &good) && !gets_in(&pki, &adit, &revoked), "{whole}");
        let seen = running.lines();
        running.signal(Signal::SIGHUP);
        running.logs_since(seen, "reloaded");
        assert!(gets_in(&pki, &running, &good) && !gets_in(&pki, &running, &revoked), "{whole}");
    }
    for (half, line) in [
        (format!("{first}{}", second.replace("-----END X509 CRL-----\n", "")), "line 7"),
        (format!("{first}{}", second.replace("-----BEGIN", "----BEGIN")), "a.crl: line"),
        (first.replace("-----END", "") + &second, "a.crl: line 1"),
    ] {
        pki.write("a.crl", &half);
        let (code, said) = refused(&args);
        assert!(code != 0 && said.contains("a.crl: line"), "{line}: {said}");
        let seen = running.lines();
        running.signal(Signal::SIGHUP);
        running.logs_since(seen, "reload rejected … a.crl: line");
        assert!(!gets_in(&pki, &running, &revoked), "the last good ones stay: {half}");
    }
}

#[test]
fn an_encrypted_key_and_a_second_key_are_named_with_their_cure() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let key = text(&pki, "server.key");
    let run = |form: &str, args: &[&str]| {
        let to = pki.path(form);
        let from = pki.path("app.key");
        let done = std::process::Command::new("openssl")
            .args(args)
            .arg("-in")
            .arg(from)
            .arg("-out")
            .arg(to)
            .output();
        assert!(done.unwrap().status.success());
        text(&pki, form)
    };
    let pkcs8 = run("a.key", &["pkcs8", "-topk8", "-passout", "pass:secret"]);
    let sec1 = run("b.key", &["ec", "-aes128", "-passout", "pass:secret"]);
    for (form, says) in [
        (pkcs8, "line 1: the private key is encrypted; `openssl pkey"),
        (sec1, "line 1: the private key is encrypted; `openssl pkey"),
        (format!("{key}{key}"), "a second private key"),
    ] {
        pki.write("server.key", form);
        let (code, said) = refused(&format!("{} --allow-all", pki.server(echo.addr)));
        assert!(code != 0 && said.contains(says), "{said}");
    }
}

/// X509-SVID §4.3: what may sign certificates is not a workload, whatever it is called.
#[test]
fn a_leaf_that_breaks_the_rules_of_svids_is_not_admitted_by_its_id() {
    use rcgen::KeyUsagePurpose as Ku;
    let (pki, echo) = (Pki::new(), Backend::echo());
    let of = |uses: Vec<Ku>| {
        pki.ca.leaf("app", |p| {
            crate::pki::as_app(p);
            p.key_usages = uses;
        })
    };
    let good = of(vec![Ku::DigitalSignature]);
    let bad = of(vec![Ku::DigitalSignature, Ku::KeyCertSign]);
    for flag in [
        "--allow-id spiffe://td.test/apps/billing/7",
        "--allow-trust-domain td.test",
        "--allow-uri spiffe://td.test/apps/billing/7",
        "--allow-uri spiffe://td.test/**",
    ] {
        let adit = Adit::start(pki.server(echo.addr) + flag);
        assert!(gets_in(&pki, &adit, &good), "{flag}");
        assert!(!gets_in(&pki, &adit, &bad), "{flag}");
        adit.logs("has keyCertSign");
    }
}

/// The log says so while there is time, and again when it has passed; then nobody of its issuer
/// gets in, unless the operator says otherwise, and whom it names does not in any case.
#[test]
fn a_crl_that_runs_out_is_told_of_ahead() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let revoked = pki.ca.leaf("gone", |p| p.serial_number = Some(8u64.into()));
    pki.write("short.crl", pki.ca.crl_for(&[8], Duration::from_secs(9)));
    let flags = format!("{} --allow-all --crl {}", pki.server(echo.addr), pki.at("short.crl"));
    let refuses = Adit::start(&flags);
    let warns = Adit::start(flags + " --crl-stale warn");
    let says = |adit: &Adit, leaf: &Leaf| {
        Caller::new(&pki.ca, Some(leaf)).says(adit.addr, "hello").is_ok_and(|s| s == "hello")
    };
    assert!(says(&refuses, &pki.app) && !says(&refuses, &revoked));
    assert_eq!(refuses.count("CRL of"), 0, "it has most of its time left");
    for adit in [&refuses, &warns] {
        adit.logs("CRL of … expires soon");
        adit.logs("CRL of … has expired");
    }
    assert!(!says(&refuses, &pki.app));
    assert!(says(&warns, &pki.app) && !says(&warns, &revoked));
}
