//! Flags, environment, validation, exit codes.

use std::time::Duration;

use pki_types::CertificateDer;

use crate::{
    backends::{Backend, nobody},
    peers::{Caller, ONLY12, ONLY13},
    pki::{Leaf, Pki, as_server},
    process::{Adit, command, ended, refused},
};

/// A command line that must not run: exit code 1, and the reason names what is wrong.
fn refuses(args: &str, says: &str) {
    let (code, error) = refused(args);
    assert!(code == 1 && error.contains(says), "{args}\n{code}: {error}\nwanted: {says}");
}

/// It listens with these flags, and ends in order.
fn starts(args: &str) {
    assert_eq!(Adit::start(args).stop(), 0, "{args}");
}

#[test]
fn a_value_stands_behind_a_space_or_an_equals_sign() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (crt, key, ca) = (pki.at("server.crt"), pki.at("server.key"), pki.at("ca.pem"));
    let adit = Adit::start(format!(
        "server --listen=127.0.0.1:0 --target={} --cert={crt} --key {key} --cacert={ca} \
         --allow-cn=app --quiet=conns --connect-timeout=5s",
        echo.addr
    ));
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn global_flags_may_stand_before_the_command() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(format!(
        "{} --quiet=all --close-timeout 1s server --listen 127.0.0.1:0 --target {} --allow-all",
        pki.showing("server"),
        echo.addr
    ));
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn environment_variables_name_certificate_key_and_roots() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut started =
        command(&format!("server --listen 127.0.0.1:0 --target {} --allow-all", echo.addr));
    started.env("CERT_PATH", pki.path("server.crt")).env("KEY_PATH", pki.path("server.key"));
    started.env("CACERT_PATH", pki.path("ca.pem"));
    let adit = Adit::spawn(started);
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn a_flag_goes_before_its_environment_variable() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut started = command(&(pki.server(echo.addr) + "--allow-all"));
    started.env("CERT_PATH", "/nowhere").env("CACERT_PATH", "/nowhere");
    assert_eq!(Adit::spawn(started).stop(), 0);
}

#[test]
fn a_pkcs12_keystore_is_opened_with_the_password_of_the_environment() {
    use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
    let (pki, echo) = (Pki::new(), Backend::echo());
    let key = PrivateKey::from_der(pki.server.key().secret_der()).unwrap();
    let chain = [&pki.server.chain[0], &pki.ca.root].map(|c| Certificate::from_der(c).unwrap());
    let mut store = KeyStore::new();
    store.add_entry("db", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new("1", key, chain)));
    pki.write("server.p12", store.writer("s3cret").write().unwrap());
    let args = format!("server --listen 127.0.0.1:0 --target {} --allow-all", echo.addr);
    let with = |password: &str| {
        let mut command = command(&args);
        command.env("KEYSTORE_PATH", pki.path("server.p12")).env("KEYSTORE_PASS", password);
        command.env("CACERT_PATH", pki.path("ca.pem"));
        command
    };
    let adit = Adit::spawn(with("s3cret"));
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
    let (code, error) = ended(with("guess"));
    assert!(code == 1 && error.contains("server.p12"), "{error}");
    assert!(!error.contains("guess"), "a password is never shown: {error}");
    assert!(error.contains("cannot be opened with this password"), "{error}");
    let (code, error) = ended(with(""));
    assert!(code == 1 && error.contains("use --storepass or `passwordFile`"), "{error}");
}

/// Also where one of them has no certificate, or no name: which is meant, only the operator knows.
#[test]
fn a_keystore_with_two_keys_is_refused_and_names_both() {
    use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
    let (pki, echo) = (Pki::new(), Backend::echo());
    let entry = |id: &str, of: &Leaf, certificates: &[&CertificateDer<'_>]| {
        let key = PrivateKey::from_der(of.key().secret_der()).unwrap();
        let chain = certificates.iter().map(|c| Certificate::from_der(c).unwrap());
        KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(id, key, chain.collect::<Vec<_>>()))
    };
    let certificate = &pki.server.chain[0];
    for second in [entry("2", &pki.app, &[&pki.app.chain[0]]), entry("2", &pki.app, &[])] {
        let mut store = KeyStore::new();
        store.add_entry("db", entry("1", &pki.server, &[certificate]));
        store.add_entry("spare", second);
        pki.write("two.p12", store.writer("s3cret").write().unwrap());
        let (code, error) = refused(&format!(
            "server --listen 127.0.0.1:0 --target {} --allow-all --cacert {} --keystore {} \
             --storepass s3cret",
            echo.addr,
            pki.at("ca.pem"),
            pki.at("two.p12")
        ));
        assert_eq!(code, 1, "{error}");
        for says in ["two.p12", "2 private keys", "\"db\"", "\"spare\"", "keep only"] {
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}

#[test]
fn a_keystore_may_be_one_pem_file() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    pki.put_combined("both.pem", &pki.server);
    let adit = Adit::start(format!(
        "server --listen 127.0.0.1:0 --target {} --keystore {} --cacert {} --allow-all",
        echo.addr,
        pki.at("both.pem"),
        pki.at("ca.pem")
    ));
    assert_eq!(Caller::new(&pki.ca, Some(&pki.app)).says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let pki = Pki::new();
    let (crt, key, ca) = (pki.at("server.crt"), pki.at("server.key"), pki.at("ca.pem"));
    let (none, app) = (pki.at("none.pem"), pki.at("app.key"));
    pki.write("text.pem", "hello");
    let text = pki.at("text.pem");
    let rest = "server --listen 127.0.0.1:0 --target 127.0.0.1:1 --allow-all";
    for (flags, says) in [
        (format!("--cert {none} --key {key} --cacert {ca}"), "none.pem"),
        (format!("--cert {crt} --key {none} --cacert {ca}"), "none.pem"),
        (format!("--cert {crt} --key {key} --cacert {none}"), "none.pem"),
        (format!("--cert {crt} --key {key} --cacert {ca} --crl {none}"), "none.pem"),
        (format!("--keystore {none} --cacert {ca}"), "none.pem"),
        (
            format!("--cert {text} --key {key} --cacert {ca}"),
            "text.pem: contains no PEM certificate",
        ),
        (
            format!("--cert {crt} --key {text} --cacert {ca}"),
            "text.pem: contains no PEM private key",
        ),
        (
            format!("--cert {crt} --key {key} --cacert {text}"),
            "text.pem: contains no PEM certificate",
        ),
        (format!("--cert {crt} --key {key} --cacert {ca} --crl {text}"), "text.pem"),
        (format!("--cert {crt} --key {app} --cacert {ca}"), "does not belong to the certificate"),
    ] {
        refuses(&format!("{rest} {flags}"), says);
    }
}

#[test]
fn a_certificate_that_has_expired_is_not_shown() {
    let pki = Pki::new();
    let expired = pki.ca.leaf("server", |params| {
        as_server(params);
        params.not_after = params.not_before;
    });
    pki.put("server", &expired);
    let (_, error) = refused(&(pki.server("127.0.0.1:1") + "--allow-all"));
    let says =
        ["server.crt: the certificate has expired: it was valid until 2", "Z; renew it, and"];
    assert!(says.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn what_a_server_may_not_be() {
    let pki = Pki::new();
    let shown = pki.showing("server");
    let local = format!("server --listen 127.0.0.1:0 --target 127.0.0.1:1 {shown}");
    let pin = format!("--allow-spki-pin sha256:{}", "A".repeat(43) + "=");
    for (args, says) in [
        (local.clone(), "no client is allowed"),
        (
            format!("{local} --allow-all --disable-authentication"),
            "cannot be used with --allow flags",
        ),
        (
            format!("{local} --allow-cn a --disable-authentication"),
            "cannot be used with --allow flags",
        ),
        (format!("{local} {pin} --disable-authentication"), "cannot be used with --allow flags"),
        (format!("{local} {pin} --allow-cn a"), "--allow-spki-pin cannot be used"),
        (format!("{local} {pin} --allow-all"), "--allow-spki-pin cannot be used"),
        (format!("{local} --allow-all --allow-cn a"), "--allow-all allows every client"),
        (
            format!("{local} --allow-all --allow-id spiffe://td/a"),
            "--allow-all allows every client",
        ),
        (
            format!("server --listen 127.0.0.1:0 --target 192.0.2.1:1 {shown} --allow-all"),
            "--unsafe-target",
        ),
        (
            format!("server --listen 127.0.0.1:0 --target systemd:x {shown} --allow-all"),
            "systemd:NAME is for --listen",
        ),
        (format!("{local} --allow-all --connect-timeout 0"), "--connect-timeout must not be 0"),
        (format!("{local} --allow-all --connect-timeout 0s"), "--connect-timeout must not be 0"),
    ] {
        refuses(&args, says);
    }
}

#[test]
fn what_a_client_may_not_be() {
    let pki = Pki::new();
    let shown = pki.showing("app");
    let local = format!("client --listen 127.0.0.1:0 --target 127.0.0.1:1 {shown}");
    let pin = format!("--verify-spki-pin sha256:{}", "A".repeat(43) + "=");
    for (args, says) in [
        (format!("client --listen 0.0.0.0:0 --target 127.0.0.1:1 {shown}"), "--unsafe-listen"),
        (format!("client --listen :0 --target 127.0.0.1:1 {shown}"), "--unsafe-listen"),
        (
            format!("client --listen 127.0.0.1:0 --target unix:/x --proxy http://p:1 {shown}"),
            "unix:/x must be HOST:PORT behind a proxy",
        ),
        (
            format!("client --listen 127.0.0.1:0 --target systemd:x {shown}"),
            "systemd:NAME is for --listen",
        ),
        (format!("{local} {pin} --verify-cn a"), "--verify-spki-pin cannot be used"),
        (format!("{local} --connect-timeout 0"), "--connect-timeout must not be 0"),
    ] {
        refuses(&args, says);
    }
}

#[test]
fn one_source_of_credentials_and_a_whole_one() {
    let pki = Pki::new();
    let (crt, key, ca) = (pki.at("server.crt"), pki.at("server.key"), pki.at("ca.pem"));
    let rest =
        format!("server --listen 127.0.0.1:0 --target 127.0.0.1:1 --allow-all --cacert {ca}");
    let client = "client --listen 127.0.0.1:0 --target 127.0.0.1:1";
    for (args, says) in [
        (rest.clone(), "a certificate is needed"),
        (format!("{rest} --cert {crt}"), "--key is missing: the private key of --cert"),
        (format!("{rest} --key {key}"), "--cert is missing: the certificate that belongs to --key"),
        (format!("{rest} --cert {crt} --key {key} --keystore {crt}"), "exclude each other"),
        (format!("{rest} --keystore {crt} --use-workload-api"), "exclude each other"),
        (format!("{rest} --use-workload-api"), "SPIFFE_ENDPOINT_SOCKET"),
        (format!("{client} --cacert {ca}"), "a certificate is needed"),
    ] {
        refuses(&args, says);
    }
}

/// What people type first and what they mean by it.
#[test]
fn a_port_alone_and_a_plain_name_for_an_id_are_answered_with_what_to_write() {
    let server = "server --target 127.0.0.1:1 --listen";
    let client = "client --target 127.0.0.1:1 --listen 127.0.0.1:0 --verify-id";
    for (args, says) in [
        (format!("{server} 8443"), "'8443' for '--listen <ADDR>': not a valid address: the host"),
        (format!("{server} 8443"), ":8443 is all addresses of this host, 127.0.0.1:8443 only"),
        (
            format!("{server} http://localhost:8443/"),
            "not a valid address: write localhost:8443, without http:// (expected",
        ),
        (
            "server --listen :0 --target https://db.example".into(),
            "'--target <ADDR>': not a valid address: write db.example:443, without https://",
        ),
        (format!("{server} :0 --allow-id app1"), "use --allow-cn, for a DNS name --allow-dns"),
        (format!("{client} app1"), "for a common name use --verify-cn, for a DNS name"),
    ] {
        let (_, error) = refused(&args);
        assert!(error.contains(says), "{args}\n{error}\nwanted: {says}");
    }
    let (_, error) = refused(&format!("{server} :0 --allow-id spiffe://td/a/"));
    assert!(error.contains("trailing slash") && !error.contains("--allow-cn"), "{error}");
}

/// A server that forgot its CA would admit whoever a public CA gives the name.
#[test]
fn a_server_without_roots_says_that_public_cas_count() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let shown = format!("--cert {} --key {}", pki.at("server.crt"), pki.at("server.key"));
    let args = format!("server --listen 127.0.0.1:0 --target {} {shown} ", echo.addr);
    let start = |more: String| {
        let mut command = command(&(args.clone() + &more));
        command.env("SSL_CERT_FILE", pki.at("ca.pem"));
        Adit::spawn(command)
    };
    let adit = start("--allow-cn app".into());
    adit.logs("WARN … a client with an allowed name is accepted from any public CA");
    for more in
        [format!("--allow-cn app --cacert {}", pki.at("ca.pem")), "--disable-authentication".into()]
    {
        let adit = start(more);
        assert_eq!(adit.count("any public CA"), 0);
    }
}

#[test]
fn pins_do_not_go_with_the_workload_api() {
    let pin = format!("sha256:{}", "A".repeat(43) + "=");
    let api = "--use-workload-api-addr unix:///nowhere/agent.sock";
    let server = "server --listen 127.0.0.1:0 --target 127.0.0.1:1";
    let client = "client --listen 127.0.0.1:0 --target 127.0.0.1:1";
    for args in [
        format!("{server} {api} --allow-spki-pin {pin}"),
        format!("{client} {api} --verify-spki-pin {pin}"),
    ] {
        refuses(&args, "cannot be used with the Workload API");
    }
}

#[test]
fn a_workload_api_that_never_answers_is_waited_for_so_long() {
    let nobody = tempfile::tempdir().unwrap();
    let socket = nobody.path().join("agent.sock").display().to_string();
    refuses(
        &format!(
            "server --listen 127.0.0.1:0 --target 127.0.0.1:1 --allow-all \
             --use-workload-api-timeout 200ms --use-workload-api-addr unix://{socket}"
        ),
        "no SVID from",
    );
}

#[test]
fn a_wrong_word_is_a_usage_error_that_names_it() {
    let pki = Pki::new();
    let good = pki.server("127.0.0.1:1") + "--allow-all";
    for (args, says) in [
        (format!("{good} --alow-cn x"), "--alow-cn"),
        (format!("{good} --quiet loud"), "loud"),
        (format!("{good} --shutdown-timeout=-5s"), "negative"),
        (format!("{good} --shutdown-timeout soon"), "soon"),
        (format!("{good} --max-concurrent-conns many"), "many"),
        (format!("{good} --allow-uri spiffe://a/b*"), "whole segment"),
        (format!("{good} --allow-ip 300.1.1.1"), "300.1.1.1"),
        (format!("{good} --allow-spki-pin md5:AAAA"), "md5"),
        (format!("{good} --allow-spki-pin sha256:AAAA"), "3 bytes"),
        (format!("{good} --proxy-protocol --proxy-protocol-mode tls"), "--proxy-protocol"),
        (format!("{good} --max-tls-version TLS1.1"), "TLS1.1"),
        (format!("{good} --min-tls-version TLS1.1"), "TLS1.1"),
        (
            format!("{good} --min-tls-version TLS1.3 --max-tls-version TLS1.2"),
            "no TLS version is left",
        ),
        (format!("{good} --enable-shutdown"), "--status"),
        ("server --target localhost:1 --allow-all".into(), "--listen"),
        ("client --listen localhost:1".into(), "--target"),
        ("server --listen localhost --target localhost:1".into(), "port is missing"),
        ("server --listen ::1:80 --target localhost:1".into(), "brackets"),
    ] {
        let (code, error) = refused(&args);
        assert!(code == 1 && error.contains(says), "{args}\n{code}: {error}\nwanted: {says}");
    }
}

#[test]
fn flags_of_other_systems_say_so() {
    let good = Pki::new().server("127.0.0.1:1") + "--allow-all";
    for (flag, says) in [
        ("--keychain-identity x", "macOS"),
        ("--keychain-issuer x", "macOS"),
        ("--keychain-require-token", "macOS"),
        ("--eventlog", "Windows"),
        ("--enable-pprof --status 127.0.0.1:0", "perf"),
        ("--allow-unsafe-cipher-suites", "CBC"),
    ] {
        refuses(&format!("{good} {flag}"), says);
    }
    let (code, error) = refused("server --listen launchd:x --target localhost:1");
    assert!(code == 1 && error.contains("macOS"), "{error}");
}

/// The reference list, hidden ones and aliases too: a unit file of ghostunnel's is understood.
#[test]
fn every_flag_of_ghostunnel_is_known() {
    let globals = "--keystore p --cert p --key p --storepass p --cacert p --use-workload-api \
        --use-workload-api-addr a --use-workload-api-timeout 10m --keychain-identity a \
        --keychain-issuer a --keychain-require-token --pkcs11-module a --pkcs11-token-label a \
        --pkcs11-pin a --timed-reload 5m --shutdown-timeout 5m --connect-timeout 10s \
        --close-timeout 60s --max-conn-lifetime 1h --max-concurrent-conns 5 --metrics-graphite a:1 \
        --metrics-url http://a --metrics-prefix a --metrics-interval 30s --status a:1 \
        --enable-pprof --enable-shutdown --quiet all --quiet conns --quiet conn-errs \
        --quiet handshake-errs --skip-resolve --syslog --disable-landlock --use-landlock \
        --cipher-suites AES,CHACHA --allow-unsafe-cipher-suites --max-tls-version TLS1.3 \
        --eventlog";
    let server = "--target a:1 --unsafe-target --target-status http://a --proxy-protocol \
        --allow-all --allow-cn a --allow-ou a --allow-dns a --allow-dns-san a --allow-uri s://a \
        --allow-uri-san s://a --allow-ip 1.2.3.4 --allow-ip-san 1.2.3.4 --allow-policy p \
        --allow-query q --disable-authentication --auto-acme-cert a --auto-acme-email a \
        --auto-acme-agree-to-tos --auto-acme-ca a --auto-acme-testca a";
    let client = "--target a:1 --unsafe-listen --override-server-name a --proxy http://a \
        --verify-cn a --verify-ou a --verify-dns a --verify-dns-san a --verify-uri s://a \
        --verify-uri-san s://a --verify-ip 1.2.3.4 --verify-ip-san 1.2.3.4 --verify-policy p \
        --verify-query q --disable-authentication";
    for args in [
        format!("server {server} {globals}"),
        format!("client {client} {globals}"),
        format!("{globals} server {server} --proxy-protocol-mode tls-full")
            .replace("--proxy-protocol --", "--"),
        format!("{globals} client {client}").replace("--proxy ", "--connect-proxy "),
    ] {
        let (code, error) = refused(&args);
        // Only --listen is missing.
        assert!(code == 1 && error.contains("required arguments"), "{args}\n{error}");
        assert!(error.contains("--listen <ADDR>"), "{args}\n{error}");
    }
}

#[test]
fn durations_are_written_as_in_go() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let good = pki.server(echo.addr) + "--allow-all";
    starts(&format!(
        "{good} --shutdown-timeout 1h30m --connect-timeout 1.5s --close-timeout 0 \
         --max-conn-lifetime 500ms --timed-reload 2h45m30s"
    ));
}

#[test]
fn an_address_in_use_is_an_error_at_start() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let (code, error) = refused(&format!(
        "server --listen {} --target {} {} --allow-all",
        echo.addr,
        echo.addr,
        pki.showing("server")
    ));
    let says = "another process is listening there; stop it, or choose another address with `listen` \
                or --listen";
    assert!(code == 1 && error.contains(says), "{error}");
}

#[test]
fn the_status_endpoint_and_the_listener_are_told_to_have_the_same_address() {
    let pki = Pki::new();
    let server = format!("server --target 127.0.0.1:1 {} --allow-all", pki.showing("server"));
    let client = format!("client --target 127.0.0.1:1 {}", pki.showing("app"));
    for (args, listen, status) in [
        (&server, ":8443", ":8443"),
        (&server, "127.0.0.1:8443", ":8443"),
        (&client, "127.0.0.1:8443", "localhost:8443"),
    ] {
        let (code, error) = refused(&format!("{args} --listen {listen} --status {status}"));
        let says = format!(
            "the status endpoint (--status {status}) and the listener (--listen {listen}) have the \
             same address; choose another port for --status"
        );
        assert!(code == 1 && error.contains(&says), "{error}");
    }
}

#[test]
fn a_target_without_address_is_found_at_start_unless_told_otherwise() {
    let pki = Pki::new();
    let unknown = pki.client("nobody.invalid:443");
    refuses(&unknown, "nobody.invalid:443");
    starts(&format!("{unknown} --skip-resolve"));
}

#[test]
fn a_target_that_is_down_does_not_keep_it_from_starting() {
    let pki = Pki::new();
    starts(&(pki.server(nobody()) + "--allow-all"));
}

/// Without client certificates there is nothing to check, and so nothing to check against: the
/// usual container image has no roots.
#[test]
fn a_server_that_asks_for_no_certificates_needs_no_roots() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let args = format!(
        "server --listen 127.0.0.1:0 --target {} --cert {} --key {}",
        echo.addr,
        pki.at("server.crt"),
        pki.at("server.key")
    );
    let without_roots = |more: &str| {
        let mut command = command(&format!("{args} {more}"));
        command.env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere");
        command
    };
    let adit = Adit::spawn(without_roots("--disable-authentication"));
    assert_eq!(Caller::new(&pki.ca, None).says(adit.addr, "hello").unwrap(), "hello");
    let (code, error) = ended(without_roots("--allow-all"));
    assert!(code == 1 && error.contains("no trusted roots"), "{error}");
}

#[test]
fn quiet_leaves_out_what_it_names_and_nothing_else() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let app = Caller::new(&pki.ca, Some(&pki.app));
    let nameless = Caller::new(&pki.ca, None);
    for (flags, completed, refused) in [
        ("", true, true),
        ("--quiet conns", false, true),
        ("--quiet handshake-errs", true, false),
        ("--quiet conns --quiet handshake-errs", false, false),
        ("--quiet=all", false, false),
    ] {
        let adit = Adit::start(format!("{} --allow-all {flags}", pki.server(echo.addr)));
        assert_eq!(app.says(adit.addr, "hello").unwrap(), "hello");
        assert!(nameless.says(adit.addr, "hello").is_err());
        // The drain waits for both, and the log is written to its end.
        adit.signal(nix::sys::signal::Signal::SIGTERM);
        let all = adit.rest_of_log();
        assert_eq!(all.contains("reason=\"completed\""), completed, "{flags}: {all}");
        assert_eq!(all.contains("no_peer_certificate"), refused, "{flags}: {all}");
    }
}

#[test]
fn a_json_log_has_one_object_a_line() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut started =
        command(&format!("{} --allow-cn app --log-format json", pki.server(echo.addr)));
    started.env("RUST_LOG", "info");
    let adit = Adit::spawn(started);
    let listening: serde_json::Value = serde_json::from_str(&adit.logs("\"listening\"")).unwrap();
    let addr = listening["listen"].as_str().unwrap().parse().unwrap();
    let app = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(app.says(addr, "hello").unwrap(), "hello");
    let record: serde_json::Value = serde_json::from_str(&adit.logs("direction")).unwrap();
    assert_eq!(record["reason"], "completed");
    assert_eq!((&record["bytes_sent"], &record["bytes_recv"]), (&5.into(), &5.into()));
    assert_eq!(record["policy"], "cn");
    assert_eq!(record["src.identity"], "spiffe://td.test/apps/billing/7");
}

#[test]
fn help_and_version_answer() {
    for args in ["--version", "--help", "-h", "help", "server --help", "client --help-all"] {
        assert_eq!(refused(args).0, 0, "{args}");
    }
}

/// What is taken, or refused with a reason, is shown: also what only moves here from ghostunnel.
#[test]
fn every_flag_is_shown() {
    for (args, flags) in [
        (
            "server --help-all",
            "allow-ip auto-acme-renew-check-interval auto-acme-alt-tls-alpn-port",
        ),
        ("client --help-all", "verify-ip"),
    ] {
        let shown = command(args).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let common = "enable-pprof eventlog keychain-identity keychain-issuer \
                      keychain-require-token use-landlock cipher-suites \
                      allow-unsafe-cipher-suites max-tls-version alpn starttls";
        for flag in flags.split(' ').chain(common.split(' ')) {
            assert!(shown.contains(&format!("--{flag}")), "{args}: {flag}");
        }
        let about = shown.split("--close-timeout").nth(1).unwrap();
        let about = about.split("--").next().unwrap();
        for says in ["without a byte in either direction", "both sides are reset", "[default: 60s]"]
        {
            assert!(
                about.split_whitespace().collect::<Vec<_>>().join(" ").contains(says),
                "{about}"
            );
        }
    }
}

#[test]
fn a_connection_that_takes_too_long_to_begin_is_ended() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let adit = Adit::start(pki.server(echo.addr) + "--allow-all --connect-timeout 300ms");
    let mut silent = crate::backends::dial(adit.addr);
    let begun = std::time::Instant::now();
    assert!(matches!(std::io::Read::read(&mut silent, &mut [0; 1]), Ok(0) | Err(_)));
    assert!(begun.elapsed() >= Duration::from_millis(250));
    adit.logs("_timeout … after 300ms");
    assert_eq!(echo.taken(), 0);
}

#[test]
fn groups_of_cipher_suites_are_for_tls_1_2() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let agreed = |flags: &str, versions| {
        let adit = Adit::start(pki.server(echo.addr) + "--allow-cn app " + flags);
        let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
        let session = caller.dial(adit.addr).unwrap();
        format!("{:?}", session.conn.negotiated_cipher_suite().unwrap().suite())
    };
    for (flags, expected) in [
        ("", "AES_256_GCM"),
        ("--cipher-suites AES", "AES_256_GCM"),
        ("--cipher-suites CHACHA", "CHACHA20_POLY1305"),
        ("--cipher-suites CHACHA,AES", "CHACHA20_POLY1305"),
        ("--cipher-suites AES,CHACHA", "AES_256_GCM"),
    ] {
        let found = agreed(flags, ONLY12);
        assert!(found.contains(expected), "{flags}: {found}");
        let found = agreed(flags, ONLY13);
        assert!(found.starts_with("TLS13_AES_256"), "{flags}: {found}");
    }
    refuses(
        &(pki.server("localhost:1") + "--allow-all --cipher-suites UNSAFE-AZURE"),
        "must be AES or CHACHA",
    );
}
