//! What commands do when nobody takes what they print, and the exit codes of all of them.

use std::{
    fs::{File, OpenOptions},
    process::{Command, Stdio},
};

use crate::{
    backends::{Backend, nobody},
    pki::Pki,
    process::{command, ended, refused},
};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads any more, as behind `| head -1`.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// The exit code and what was said on stderr, with standard output that leads there.
fn with_stdout(args: &str, stdout: impl Into<Stdio>) -> (i32, String) {
    let said = command(args).stdout(stdout).stderr(Stdio::piped()).output().unwrap();
    (said.status.code().unwrap_or(-1), String::from_utf8_lossy(&said.stderr).into_owned())
}

const STUNNEL: &str = "[db]\naccept = 127.0.0.1:1\nconnect = 127.0.0.1:2\nclient = yes\n\
                       CAfile = /ca.pem\nverifyChain = yes\ncheckHost = db\n";

fn services(pki: &Pki, listen: &str, certificate: &str) -> String {
    format!(
        "services:\n- name: db\n  mode: server\n  listen: \"{listen}\"\n  target: \
         \"127.0.0.1:1\"\n  \
         credential: {{ certificate: {certificate}, privateKey: {}, roots: {} }}\n  \
         allow: {{ all: true }}\n",
        pki.at("server.key"),
        pki.at("ca.pem")
    )
}

#[test]
fn whoever_stops_reading_ends_nothing_and_a_full_disk_is_an_error() {
    let pki = Pki::new();
    let good = services(&pki, "127.0.0.1:0", &pki.at("server.crt"));
    pki.write("good.yaml", &good);
    pki.write("bad.yaml", "services: 3\n");
    pki.write("stunnel.conf", STUNNEL);
    for args in [
        "version".to_owned(),
        "--version".to_owned(),
        "--help".to_owned(),
        "server --help".to_owned(),
        "completions bash".to_owned(),
        format!("check {}", pki.at("good.yaml")),
        format!("check --output json {}", pki.at("good.yaml")),
        format!("svid lint {} --authority", pki.at("ca.pem")),
        format!("svid lint {} --authority --output json", pki.at("ca.pem")),
        format!("import stunnel {}", pki.at("stunnel.conf")),
    ] {
        let (code, _) = with_stdout(&args, Stdio::null());
        let (read, error) = with_stdout(&args, closed());
        assert_eq!((read, error.contains("standard output")), (code, false), "{args}: {error}");
        let (lost, error) = with_stdout(&args, full());
        assert!(lost != 0 && (code == 0 || lost == code), "{args}: {code}, {lost}: {error}");
        assert!(error.contains("standard output: No space left"), "{args}: {error}");
        assert!(!error.contains("panicked"), "{args}: {error}");
    }
    // Who cannot be told of an error still hears the exit code.
    for (args, code) in [
        (format!("check {}", pki.at("bad.yaml")), 3),
        (format!("import stunnel {}", pki.at("none.conf")), 3),
        ("ca show --dir /nowhere".to_owned(), 3),
        ("server --listen 127.0.0.1:0".to_owned(), 1),
    ] {
        let mut command: Command = command(&args);
        let status = command.stdout(Stdio::null()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args}");
    }
}

/// 1: it ran and failed; 2: the command line; 3: what it was given, or what that names.
#[test]
fn each_command_has_the_same_exit_codes() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.write("good.yaml", services(&pki, "127.0.0.1:0", &pki.at("server.crt")));
    pki.write("bad.yaml", "services: 3\n");
    pki.write("names.yaml", services(&pki, "127.0.0.1:0", &pki.at("none.crt")));
    pki.write("taken.yaml", services(&pki, &echo.addr.to_string(), &pki.at("server.crt")));
    pki.write("mismatch.yaml", services(&pki, "127.0.0.1:0", &pki.at("app.crt")));
    pki.write("file", "x");
    let at = |name: &str| pki.at(name);
    let nobody = nobody();
    for (code, args) in [
        (0, format!("check {}", at("good.yaml"))),
        (3, format!("check {}", at("none.yaml"))),
        (3, format!("check {}", at("names.yaml"))),
        (3, format!("check {}", at("mismatch.yaml"))),
        (3, format!("proxy -c {}", at("none.yaml"))),
        (3, format!("proxy -c {}", at("bad.yaml"))),
        (3, format!("proxy -c {}", at("names.yaml"))),
        (3, format!("proxy -c {}", at("mismatch.yaml"))),
        (1, format!("proxy -c {}", at("taken.yaml"))),
        (3, format!("run -c {}", at("none.yaml"))),
        (3, format!("ca serve -c {}", at("none.yaml"))),
        (3, format!("ca show --dir {}", at("none"))),
        (3, format!("ca show --dir {}", at("file"))),
        (3, format!("ca prepare --dir {}", at("none"))),
        (3, format!("ca activate --dir {}", at("none"))),
        (3, format!("ca taint --dir {}", at("none"))),
        (3, format!("ca revoke --dir {}", at("none"))),
        (3, format!("ca rotate --dir {}", at("none"))),
        (3, format!("ca ban spiffe://td/x --dir {}", at("none"))),
        (3, format!("ca unban spiffe://td/x --dir {}", at("none"))),
        (2, "ca ban nobody --dir /".to_owned()),
        (3, format!("ca token create --id spiffe://td/x --dir {}", at("file"))),
        (2, format!("ca token create --id spiffe://td/x --ttl 31d --dir {}", at("join"))),
        (2, format!("ca token create --id spiffe://td/x --ttl 0s --dir {}", at("join"))),
        (3, format!("svid fetch x509 --socket {}", at("none"))),
        (3, format!("svid fetch x509 --socket unix://{}", at("file"))),
        (3, format!("svid fetch jwt --audience x --socket {}", at("none"))),
        (3, format!("svid validate jwt --audience x --socket {} a.b.c", at("none"))),
        (3, format!("svid watch --socket {}", at("none"))),
        (1, format!("svid fetch jwt --audience x --socket tcp://{nobody}")),
        (3, format!("workload-api check --socket {}", at("none"))),
        (3, format!("workload-api check --socket unix://{}", at("file"))),
        (1, format!("workload-api check --socket tcp://{nobody}")),
        (1, "workload-api check --socket nowhere".to_owned()),
        (3, format!("svid lint {}", at("none"))),
        (3, format!("import stunnel {}", at("none"))),
        (1, format!("bench run {nobody} --mode churn --seconds 0.1 --quiet")),
        (2, "bench run nowhere --mode churn".to_owned()),
        (2, "nonsense".to_owned()),
        (2, String::new()),
        (2, "ca".to_owned()),
        // As ghostunnel.
        (1, "server --nonsense".to_owned()),
        (1, pki.server(echo.addr).replace("server.crt", "none.crt") + "--allow-all"),
    ] {
        let (found, error) = refused(&args);
        assert_eq!(found, code, "{args}: {error}");
        // A load says in its table what failed, and a check in its report.
        let elsewhere = ["bench run 127", "workload-api check"].iter().any(|a| args.starts_with(a));
        let elsewhere = code == 0 || elsewhere;
        assert!(elsewhere || !error.trim().is_empty(), "{args}: it says why");
    }
}

#[test]
fn a_join_token_that_would_live_too_long_is_refused_with_the_maximum() {
    let dir = tempfile::tempdir().unwrap();
    let create = format!("ca token create --id spiffe://td/x --dir {} --ttl", dir.path().display());
    let (code, error) = refused(&format!("{create} 60d"));
    assert!(code == 2 && error.contains("must be at most 30d"), "{code}: {error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no token is made");
    assert_eq!(refused(&format!("{create} 30d")).0, 0);
}

#[test]
fn a_log_filter_that_would_silence_everything_is_refused() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.write("good.yaml", services(&pki, "127.0.0.1:0", &pki.at("server.crt")));
    for args in [pki.server(echo.addr) + "--allow-all", format!("proxy -c {}", pki.at("good.yaml"))]
    {
        let mut started = command(&args);
        started.env("RUST_LOG", "inof");
        let (code, error) = ended(started);
        assert!(
            code == 1 && error.contains("RUST_LOG: \"inof\" is not a valid level"),
            "{code}: {error}"
        );
    }
}

#[test]
fn protocols_are_not_written_with_commas() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (code, error) = refused(&(pki.server(echo.addr) + "--allow-all --alpn h2,http/1.1"));
    assert!(code == 1 && error.contains("write --alpn once for each"), "{code}: {error}");
    let good = services(&pki, "127.0.0.1:0", &pki.at("server.crt"));
    pki.write("commas.yaml", good + "  alpn: [\"h2,http/1.1\"]\n");
    let (code, error) = refused(&format!("check {}", pki.at("commas.yaml")));
    assert!(code == 3 && error.contains("alpn: [h2, http/1.1]"), "{code}: {error}");
}
