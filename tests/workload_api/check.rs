//! `adit workload-api check`: silent about a right server, and by name about each fault of a wrong
//! one.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use adit::{
    identity::lint::{Report, Verdict},
    spiffe_api::check::{Options, check},
};

use super::{
    harness::Test,
    served::Served,
    wrong::{Hangs, Shouts, Wrong, serve},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_right_server_passes_every_check", a_right_server_passes_every_check),
    ("a_caller_without_identity_is_told_so", a_caller_without_identity_is_told_so),
    ("each_fault_of_a_wrong_server_is_named", each_fault_of_a_wrong_server_is_named),
    ("a_server_that_hangs_is_left_soon", a_server_that_hangs_is_left_soon),
    ("nothing_that_a_server_says_steers_a_terminal", shouts),
    ("an_address_that_is_none_is_a_finding", an_address_that_is_none_is_a_finding),
    ("files_are_judged_by_what_they_hold", files_are_judged_by_what_they_hold),
];

const OPTIONS: Options = Options {
    audience: String::new(),
    watch: Duration::from_millis(300),
    answer: Duration::from_secs(5),
};

fn run(address: &str) -> Report {
    run_with(address, OPTIONS)
}

fn run_with(address: &str, options: Options) -> Report {
    let options = Options { audience: "db".into(), ..options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = Duration::from_secs(60);
    let within = async { tokio::time::timeout(limit, check(address, &options)).await };
    runtime.block_on(within).expect("in a minute")
}

fn named(report: &Report, verdict: Verdict) -> Vec<&str> {
    let named = report.findings.iter().filter(|finding| finding.verdict == verdict);
    named.map(|finding| &*finding.rule).collect()
}

fn a_right_server_passes_every_check() {
    let served = Served::start(
        "  - { id: /one, hint: one, selectors: { uid: 0 } }
  - { id: /two, hint: one, selectors: { uid: 0 } }",
    );
    let report = run(&format!("unix://{}", served.socket().display()));
    for verdict in [Verdict::Fail, Verdict::Warn, Verdict::NotChecked] {
        assert_eq!(named(&report, verdict), [""; 0], "{report:#?}");
    }
    assert!(named(&report, Verdict::Ok).len() > 60, "{report:#?}");
    // The command says the same, to people and to scripts.
    for output in ["text", "json"] {
        let said = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["workload-api", "check", "--watch", "100ms", "--output", output, "--socket"])
            .arg(format!("unix://{}", served.socket().display()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert_eq!(said.status.code(), Some(0), "{text}");
        assert!(text.contains("Workload Endpoint §3"), "{text}");
    }
}

fn a_caller_without_identity_is_told_so() {
    let served = Served::start("  - { id: /one, selectors: { uid: 99 } }");
    let report = run(&format!("unix://{}", served.socket().display()));
    assert!(!report.failed(), "{report:#?}");
    let begins = report.findings.iter().find(|f| f.rule == "FetchX509SVID begins").unwrap();
    assert_eq!(begins.verdict, Verdict::NotChecked);
    assert!(begins.found.starts_with("no identity for this process: pid "), "{begins:?}");
    // The header is looked at before the caller is.
    assert!(named(&report, Verdict::Ok).contains(&"FetchJWTSVID without the header"));
}

fn each_fault_of_a_wrong_server_is_named() {
    let (wrong, expected) = Wrong::new();
    let server = serve(wrong);
    let report = run(&server.address());
    let (fails, warns) = (named(&report, Verdict::Fail), named(&report, Verdict::Warn));
    for rule in expected.fails {
        assert!(fails.contains(rule), "{rule} of {fails:#?}");
    }
    for rule in expected.warns {
        assert!(warns.contains(rule), "{rule} of {warns:#?}");
    }
    let clauses = report.findings.iter().filter(|f| f.verdict == Verdict::Fail);
    assert!(clauses.clone().all(|f| f.clause.contains('§') && !f.advice.is_empty()), "{report:#?}");
    let said = Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["workload-api", "check", "--quiet", "--watch", "10ms", "--socket"])
        .arg(server.address())
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&said.stdout).contains("FAIL FetchX509SVID without the header")
    );
}

/// Three calls without an answer, and the rest is not asked.
fn a_server_that_hangs_is_left_soon() {
    let server = serve(Hangs);
    let start = Instant::now();
    let report =
        run_with(&server.address(), Options { answer: Duration::from_millis(200), ..OPTIONS });
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(named(&report, Verdict::Fail).contains(&"FetchX509SVID begins"), "{report:#?}");
    let last = report.findings.iter().rfind(|f| f.verdict == Verdict::Fail).unwrap();
    assert!(last.found.contains("not called"), "{last:?}");
}

/// What is said is bounded, and without control characters, in each form.
fn shouts() {
    let server = serve(Shouts);
    let address = server.address();
    let fetch = ["svid", "fetch", "jwt", "--audience", "db", "--socket", &address];
    let validate = ["svid", "validate", "jwt", "--audience", "db", "a", "--socket", &address];
    let check = ["workload-api", "check", "--watch", "10ms", "--socket", &address];
    for args in [&fetch[..], &validate, &check] {
        for output in ["text", "json"] {
            let adit = Command::new(env!("CARGO_BIN_EXE_adit"))
                .args(args)
                .args(["--output", output])
                .output()
                .unwrap();
            let said = String::from_utf8([adit.stdout, adit.stderr].concat()).unwrap();
            let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(said.contains("owned") && !said.contains(steers), "{args:?}: {said:?}");
            assert!(said.len() < 200_000, "{args:?}: {} bytes", said.len());
        }
    }
}

fn an_address_that_is_none_is_a_finding() {
    // Who only fetches hears where nobody answered, and why.
    let fetch = ["svid", "fetch", "x509", "--socket", "unix:///nothing/here.sock"];
    let adit = Command::new(env!("CARGO_BIN_EXE_adit")).args(fetch).output().unwrap();
    let said = String::from_utf8(adit.stderr).unwrap();
    assert_eq!(adit.status.code(), Some(3));
    assert!(said.contains("/nothing/here.sock") && said.contains("No such file"), "{said}");
    for (address, rule) in [
        ("tcp://localhost:80", "address"),
        ("unix://host/a.sock", "address"),
        ("unix:///nothing/here.sock", "reachable"),
    ] {
        assert_eq!(named(&run(address), Verdict::Fail), [rule], "{address}");
    }
}

/// `adit svid lint` of what `adit svid fetch` wrote, in each form, and its exit codes.
fn files_are_judged_by_what_they_hold() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    let dir = tempfile::tempdir().unwrap();
    let adit = |args: &[&str]| {
        let command = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["svid"])
            .args(args)
            .current_dir(dir.path())
            .env("SPIFFE_ENDPOINT_SOCKET", served.socket())
            .output();
        let said = command.unwrap();
        (said.status.code(), String::from_utf8_lossy(&said.stdout).into_owned())
    };
    assert_eq!(adit(&["fetch", "x509", "--write", "."]).0, Some(0));
    let (_, json) = adit(&["fetch", "jwt", "--audience", "db", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("token", json["svids"][0]["token"].as_str().unwrap().as_bytes());
    let pem = std::fs::read(dir.path().join("svid.0.pem")).unwrap();
    let der: pki_types::CertificateDer<'_> =
        pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    write("der", &der);
    write("cut", &der[..der.len() - 1]);
    write("document", br#"{"keys":[],"spiffe_sequence":1,"spiffe_refresh_hint":300}"#);
    let bundle = "bundle.example.org.pem";
    for (args, code, said) in [
        (
            &["lint", "svid.0.pem", "--bundle", bundle][..],
            0,
            "X.509-SVID, spiffe://example.org/one",
        ),
        (&["lint", "der", "--bundle", bundle], 0, "ok   adit's own verdict"),
        (&["lint", "der", "--bundle", bundle, "--trust-domain", "other"], 1, "expected other"),
        (&["lint", "cut"], 1, "FAIL leaf encoding"),
        (&["lint", "--authority", bundle], 0, "X.509 authority"),
        (&["lint", bundle], 1, "FAIL leaf is not a CA"),
        (&["lint", "token", "--audience", "db"], 0, "JWT-SVID, spiffe://example.org/one"),
        (&["lint", "token", "--audience", "web"], 1, "FAIL it is for the expected audience"),
        (&["lint", "--jwt", "document"], 1, "FAIL compact serialization"),
        (&["lint", "document"], 0, "SPIFFE bundle"),
        (&["lint", "document", "--output", "json"], 0, "\"failed\": false"),
        (&["lint", "svid.0.pem", "--bundle", "document"], 1, "FAIL chain leads to the bundle"),
        (&["lint", "no-such-file"], 3, ""),
        (&["lint"], 2, ""),
    ] {
        let (exit, text) = adit(args);
        assert!(exit == Some(code) && text.contains(said), "{args:?}: {exit:?} {text}");
    }
}
