//! Certificates by ACME, from Pebble (Let's Encrypt's CA for tests), which looks names up in its
//! own DNS server and finds adit there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use crate::{
    backends::{Backend, nobody},
    peers::Caller,
    pki::Pki,
    ports::free,
    process::{Adit, command, refused},
    wait::{LIMIT, wait_until},
};

const NAME: &str = "db.example.org";

/// A CA with its DNS, ended when dropped.
struct Pebble<'a> {
    pki: &'a Pki,
    running: Vec<Child>,
    directory: String,
    management: SocketAddr,
}

impl<'a> Pebble<'a> {
    /// Calls names at `port`; its certificates are valid for so many seconds.
    fn start(pki: &'a Pki, port: u16, seconds: u32) -> Self {
        let (listen, management, dns, dns_api) = (free(), free(), free(), free());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": listen.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": pki.at("server.crt"),
            "privateKey": pki.at("server.key"),
            "httpPort": 1,
            "tlsPort": port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": seconds,
            "retryAfter": { "authz": 1, "order": 1 },
        }});
        pki.write("pebble.json", config.to_string());
        let quiet = |command: &mut Command| {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("pebble is in the package pebble")
        };
        let resolver = quiet(Command::new("pebble-challtestsrv").args([
            "-dns01",
            &dns.to_string(),
            "-management",
            &dns_api.to_string(),
            "-defaultIPv4=127.0.0.1",
            "-defaultIPv6=",
            "-http01=",
            "-https01=",
            "-tlsalpn01=",
        ]));
        let ca = quiet(
            Command::new("pebble")
                .args(["-config", &pki.at("pebble.json"), "-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0"),
        );
        let directory = format!("https://localhost:{}/dir", listen.port());
        let pebble = Self { pki, running: vec![ca, resolver], directory, management };
        wait_until("pebble listens", LIMIT, || {
            [listen, management, dns_api].iter().all(|a| std::net::TcpStream::connect(a).is_ok())
        });
        pebble
    }

    /// The root of its certificates, as a file.
    fn root(&self) -> String {
        let url = format!("https://{}/roots/0", self.management);
        let mut curl = Command::new("curl");
        let root = curl.args(["-s", "--max-time", "10", "--cacert", &self.pki.at("ca.pem"), &url]);
        let root = root.output().unwrap();
        assert!(root.status.success());
        self.pki.write("pebble-root.pem", root.stdout);
        self.pki.at("pebble-root.pem")
    }

    fn stop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Pebble<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A server at this address, which trusts Pebble's own certificate.
fn server(pki: &Pki, listen: SocketAddr, target: SocketAddr, directory: &str) -> Command {
    let mut command = command(&format!(
        "server --listen {listen} --target {target} --allow-cn app --cacert {} \
         --auto-acme-cert {NAME} --auto-acme-email ops@example.org --auto-acme-agree-to-tos \
         --auto-acme-ca {directory} --auto-acme-storage {} --auto-acme-renew-check-interval 500ms",
        pki.at("ca.pem"),
        pki.at("acme")
    ));
    command.env("SSL_CERT_FILE", pki.at("ca.pem"));
    command
}

/// What openssl makes of the certificate that is shown, as a client that trusts Pebble: its serial
/// number and what was heard of what was said.
fn shown(pki: &Pki, adit: SocketAddr, root: &str) -> (String, String) {
    let (address, cert, key) = (adit.to_string(), pki.at("app.crt"), pki.at("app.key"));
    let mut openssl = Command::new("openssl");
    let openssl = openssl.args(["s_client", "-connect", &address, "-servername", NAME]);
    let openssl = openssl.args(["-verify_hostname", NAME, "-verify_return_error", "-CAfile", root]);
    let openssl = openssl.args(["-cert", &cert, "-key", &key, "-ign_eof", "-showcerts"]);
    let pipes = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut openssl = pipes.spawn().unwrap();
    openssl.stdin.take().unwrap().write_all(b"heard\n").unwrap();
    let mut said = String::new();
    openssl.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let _ = openssl.wait();
    let end = "-----END CERTIFICATE-----";
    let (from, to) = (said.find("-----BEGIN CERTIFICATE").unwrap(), said.find(end).unwrap());
    pki.write("shown.pem", &said[from..to + end.len()]);
    let mut serial = Command::new("openssl");
    let serial = serial.args(["x509", "-noout", "-serial", "-in", &pki.at("shown.pem")]).output();
    (String::from_utf8(serial.unwrap().stdout).unwrap(), said)
}

/// Says a line back and ends.
fn once() -> Backend {
    Backend::start(|mut socket| {
        let mut line = [0; 6];
        socket.read_exact(&mut line).unwrap();
        socket.write_all(&line).unwrap();
    })
}

#[test]
fn a_certificate_is_ordered_at_start_and_kept() {
    let (pki, backend, listen) = (Pki::new(), once(), free());
    let mut pebble = Pebble::start(&pki, listen.port(), 3600);
    let adit = Adit::spawn(server(&pki, listen, backend.addr, &pebble.directory));
    adit.logs("ACME challenge answered");
    adit.logs("listening … certificate=\"ACME https://localhost");
    let (serial, said) = shown(&pki, adit.addr, &pebble.root());
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("heard"), "{said}");
    assert_eq!(adit.stop(), 0);
    let folder = fs::read_dir(pki.path("acme")).unwrap().next().unwrap().unwrap().path();
    for name in ["account.json", "db.example.org.pem"] {
        let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // The next start needs no CA.
    let root = pebble.root();
    pebble.stop();
    let again = Adit::spawn(server(&pki, listen, backend.addr, &pebble.directory));
    assert_eq!(shown(&pki, again.addr, &root).0, serial);
}

#[test]
fn a_certificate_is_renewed_while_it_is_served() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free());
    // Due after 8 seconds; by then the service answers the challenge itself.
    let pebble = Pebble::start(&pki, listen.port(), 12);
    let adit = Adit::spawn(server(&pki, listen, echo.addr, &pebble.directory));
    let root = pebble.root();
    let first = shown_serial(&pki, adit.addr, &root);
    let seen = adit.lines();
    adit.logs_since(seen, "ACME challenge answered");
    adit.logs_since(seen, "changed files reloaded");
    assert_ne!(shown_serial(&pki, adit.addr, &root), first);
    // Who calls without a certificate is refused as before: only challenges need none.
    assert!(Caller::new(&pki.ca, None).says(adit.addr, "hello").is_err());
}

fn shown_serial(pki: &Pki, adit: SocketAddr, root: &str) -> String {
    let (address, cert, key) = (adit.to_string(), pki.at("app.crt"), pki.at("app.key"));
    let mut openssl = Command::new("sh");
    let script = format!(
        "openssl s_client -connect {address} -servername {NAME} -verify_return_error -CAfile \
         {root} -cert {cert} -key {key} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let done = openssl.args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The CA calls a port where nobody is.
#[test]
fn a_name_that_the_ca_cannot_verify_is_tried_again_until_told_to_end() {
    let (pki, listen) = (Pki::new(), free());
    let pebble = Pebble::start(&pki, nobody().port(), 3600);
    let adit = Adit::launch(server(&pki, listen, nobody(), &pebble.directory));
    adit.logs("no certificate by ACME yet; trying again … Failed to connect … tls-alpn-01");
    assert_eq!(adit.stop(), 0);
}

#[test]
fn challenges_may_come_to_a_port_of_their_own() {
    let (pki, backend, listen, other) = (Pki::new(), once(), free(), free());
    let pebble = Pebble::start(&pki, other.port(), 3600);
    let mut command = server(&pki, listen, backend.addr, &pebble.directory);
    command.args(["--auto-acme-alt-tls-alpn-port", &other.port().to_string()]);
    let adit = Adit::spawn(command);
    let (_, said) = shown(&pki, adit.addr, &pebble.root());
    assert!(said.contains("heard"), "{said}");
}

#[test]
fn what_cannot_be_ordered_is_said() {
    let pki = Pki::new();
    let rest = format!(
        "server --listen 127.0.0.1:0 --target localhost:1 --allow-all --auto-acme-storage {}",
        pki.at("acme")
    );
    let whole = "--auto-acme-email a@b.c --auto-acme-agree-to-tos";
    for (flags, says) in [
        (format!("--auto-acme-cert {NAME} --auto-acme-email a@b.c"), "--auto-acme-agree-to-tos"),
        (format!("--auto-acme-cert {NAME} --auto-acme-agree-to-tos"), "--auto-acme-email"),
        (format!("--auto-acme-cert localhost {whole}"), "not a name that a CA can certify"),
        (format!("--auto-acme-cert *.example.org {whole}"), "not a name that a CA can certify"),
        (format!("--auto-acme-cert ../../x.y {whole}"), "not a name that a CA can certify"),
        (format!("--auto-acme-cert {NAME} {whole} --auto-acme-ca http://ca"), "https://"),
        (
            format!("--auto-acme-cert {NAME} {whole} --cert {0} --key {0}", pki.at("ca.pem")),
            "exclude each other",
        ),
        (format!("--auto-acme-cert {NAME} {whole} --tunnel hbone"), "--tunnel hbone"),
    ] {
        let (code, said) = refused(&format!("{rest} {flags}"));
        assert!(code == 1 && said.contains(says), "{flags}: {said}");
    }
}
