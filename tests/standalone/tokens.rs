//! Keys on PKCS#11 tokens: SoftHSM's.

use std::{fs, path::PathBuf, process::Command, thread};

use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use nix::sys::signal::Signal;
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};

use crate::{
    backends::{Backend, ask},
    peers::{BOTH, Caller, Demand, ONLY12, ONLY13, tls_backend, tls_echo},
    pki::{Leaf, Pki, as_server},
    process::{Adit, command, ended},
};

/// A folder with tokens; their PIN is 1234.
struct Hsm<'a> {
    pki: &'a Pki,
    conf: PathBuf,
}

impl<'a> Hsm<'a> {
    fn new(pki: &'a Pki, tokens: &[&str]) -> Self {
        let folder = pki.path("tokens");
        fs::create_dir(&folder).unwrap();
        pki.write("softhsm2.conf", format!("directories.tokendir = {}\n", folder.display()));
        let hsm = Self { pki, conf: pki.path("softhsm2.conf") };
        for token in tokens {
            hsm.util(&["--init-token", "--free", "--label", token, "--so-pin", "0000"]);
        }
        hsm
    }

    fn util(&self, args: &[&str]) {
        let mut util = Command::new("softhsm2-util");
        let done = util.args(args).args(["--pin", "1234"]).env("SOFTHSM2_CONF", &self.conf);
        let done = done.output().expect("softhsm2-util is in the package softhsm2");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Writes `NAME.crt`, and its key onto the token, and nowhere else.
    fn put(&self, token: &str, id: &str, name: &str, leaf: &Leaf) {
        self.pki.put(name, leaf);
        let key = self.pki.at(&format!("{name}.key"));
        if let Some(pem) = ed25519_alone(leaf) {
            fs::write(&key, pem).unwrap();
        }
        self.util(&["--import", &key, "--token", token, "--label", name, "--id", id]);
        fs::remove_file(key).unwrap();
    }

    /// The flags that show this certificate.
    fn showing(&self, name: &str) -> String {
        let (crt, ca) = (self.pki.at(&format!("{name}.crt")), self.pki.at("ca.pem"));
        format!("--cert {crt} --cacert {ca} --pkcs11-module {}", module())
    }

    fn server(&self, backend: &Backend, name: &str) -> String {
        let showing = self.showing(name);
        format!("server --listen 127.0.0.1:0 --target {} --allow-all {showing} ", backend.addr)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = command(args);
        command.env("SOFTHSM2_CONF", &self.conf);
        command
    }

    fn start(&self, args: &str) -> Adit {
        Adit::spawn(self.command(args))
    }

    fn refused(&self, args: &str) -> String {
        let (code, said) = ended(self.command(args));
        assert_eq!(code, 1, "{said}");
        said
    }
}

/// An Ed25519 key without its public half, as SoftHSM wants it (RFC 5958: version 0).
fn ed25519_alone(leaf: &Leaf) -> Option<String> {
    let key = leaf.key();
    let whole = key.secret_der();
    let head = b"\x30\x51\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let seed = whole.strip_prefix(head)?.first_chunk::<32>()?;
    let mut alone = head.to_vec();
    (alone[1], alone[4]) = (0x2e, 0);
    alone.extend(seed);
    let text = STANDARD.encode(alone);
    Some(format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
}

/// Where Debian and others put SoftHSM.
fn module() -> String {
    let known = ["/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib64/softhsm"];
    let mut known = known.iter().map(|folder| format!("{folder}/libsofthsm2.so"));
    known.find(|path| fs::exists(path).unwrap()).expect("libsofthsm2.so, package softhsm2")
}

const PIN: &str = "--pkcs11-token-label hsm --pkcs11-pin 1234";

fn says(pki: &Pki, adit: &Adit) -> bool {
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    caller.says(adit.addr, "hello").is_ok_and(|said| said == "hello")
}

/// Every kind of key in both versions, the right one found among others.
#[test]
fn a_token_signs_for_every_kind_of_key() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let hsm = Hsm::new(&pki, &["hsm", "other"]);
    let kinds: [(&str, &'static SignatureAlgorithm); 4] = [
        ("rsa", &PKCS_RSA_SHA256),
        ("p256", &PKCS_ECDSA_P256_SHA256),
        ("p384", &PKCS_ECDSA_P384_SHA384),
        ("ed25519", &PKCS_ED25519),
    ];
    for (n, (name, kind)) in kinds.iter().enumerate() {
        let other = pki.ca.leaf_of(kind, "decoy", as_server);
        hsm.put("hsm", &format!("a{n}"), "decoy", &other);
        hsm.put("hsm", &format!("b{n}"), name, &pki.ca.leaf_of(kind, "server", as_server));
    }
    for (name, _) in kinds {
        let adit = hsm.start(&(hsm.server(&echo, name) + PIN));
        adit.logs("listening … key on PKCS#11 token hsm");
        for versions in [ONLY13, ONLY12] {
            let caller = Caller::speaking(versions, &pki.ca, Some(&pki.app));
            assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello", "{name}");
        }
        assert_eq!(adit.stop(), 0);
    }
}

#[test]
fn a_token_signs_for_many_at_once() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let hsm = Hsm::new(&pki, &["hsm"]);
    hsm.put("hsm", "01", "hsm", &pki.server);
    // The only token needs no label, and the PIN may be in a file.
    pki.write("pin", "1234\n");
    let flags = format!("--pkcs11-pin-file {}", pki.at("pin"));
    let adit = hsm.start(&(hsm.server(&echo, "hsm") + &flags));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..8).for_each(|_| assert!(says(&pki, &adit))));
        }
    });
    assert_eq!(echo.taken(), 128);
}

#[test]
fn a_client_proves_itself_with_a_token() {
    let pki = Pki::new();
    let hsm = Hsm::new(&pki, &["hsm"]);
    hsm.put("hsm", "01", "me", &pki.app);
    let backend = tls_backend(BOTH, &pki.server, Demand::Of(&pki.ca), tls_echo);
    let adit = hsm.start(&format!(
        "client --listen 127.0.0.1:0 --target localhost:{} {} {PIN}",
        backend.addr.port(),
        hsm.showing("me")
    ));
    assert_eq!(ask(adit.addr, b"hello").unwrap(), b"hello");
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let hsm = Hsm::new(&pki, &["hsm", "second"]);
    hsm.put("hsm", "01", "hsm", &pki.server);
    pki.put("stray", &pki.server);
    let stray = pki.ca.leaf("server", as_server);
    pki.put("stray", &stray);
    let rsa = pki.ca.leaf_of(&PKCS_RSA_SHA256, "server", as_server);
    pki.put("rsa", &rsa);
    let none = hsm.server(&echo, "hsm").replace(&module(), "/no/such/module.so");
    let text = hsm.server(&echo, "hsm").replace(&module(), &pki.at("ca.pem"));
    for (args, said) in [
        (
            hsm.server(&echo, "hsm") + "--pkcs11-token-label hsm --pkcs11-pin 9999",
            "the PIN is wrong",
        ),
        (hsm.server(&echo, "hsm") + "--pkcs11-token-label hsm", "needs a PIN"),
        (
            hsm.server(&echo, "hsm") + "--pkcs11-token-label none --pkcs11-pin 1234",
            "no token \"none\"; it has \"hsm\", \"second\"",
        ),
        (hsm.server(&echo, "hsm") + "--pkcs11-pin 1234", "name the token by its label"),
        (hsm.server(&echo, "stray") + PIN, "none of the 1 private keys on token \"hsm\""),
        (hsm.server(&echo, "rsa") + PIN, "no private key of the certificate's type"),
        (none + PIN, "/no/such/module.so"),
        (text + PIN, "cannot be loaded as a PKCS#11 module"),
        (
            hsm.server(&echo, "hsm") + PIN + &format!(" --key {}", pki.at("app.key")),
            "--key and --pkcs11-module exclude each other",
        ),
        (hsm.server(&echo, "hsm") + PIN + " --tunnel hbone", "cannot be used with --tunnel hbone"),
    ] {
        let heard = hsm.refused(&args);
        let named = heard.replace('\\', "").replace("\"\"", "\"");
        assert!(named.contains(said), "{said:?} is not in: {heard}");
        assert!(!heard.contains("9999"), "{heard}");
    }
}

#[test]
fn a_new_key_on_the_token_is_taken_and_a_wrong_one_is_not() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let hsm = Hsm::new(&pki, &["hsm"]);
    hsm.put("hsm", "01", "hsm", &pki.server);
    let adit = hsm.start(&(hsm.server(&echo, "hsm") + PIN));
    let shown = || {
        let caller = Caller::new(&pki.ca, Some(&pki.app));
        caller.dial(adit.addr).unwrap().conn.peer_certificates().unwrap()[0].clone()
    };
    assert_eq!(shown(), pki.server.chain[0]);
    // A certificate whose key is elsewhere.
    pki.put("hsm", &pki.ca.leaf("server", as_server));
    adit.logs("keeping the previous ones … none of the 1 private keys");
    assert_eq!(shown(), pki.server.chain[0]);
    let next = pki.ca.leaf("server", as_server);
    hsm.put("hsm", "02", "next", &next);
    fs::rename(pki.path("next.crt"), pki.path("hsm.crt")).unwrap();
    adit.signal(Signal::SIGHUP);
    adit.logs("reloaded");
    assert_eq!(shown(), next.chain[0]);
}

/// Keys may be moved on a token; the certificate says which one it is.
#[test]
fn a_key_that_was_put_there_anew_signs_again() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let hsm = Hsm::new(&pki, &["hsm"]);
    hsm.put("hsm", "01", "hsm", &pki.server);
    let adit = hsm.start(&(hsm.server(&echo, "hsm") + PIN));
    assert!(says(&pki, &adit));
    let delete = ["--type", "privkey", "--id", "01", "--login", "--token-label", "hsm"];
    let mut tool = Command::new("pkcs11-tool");
    let tool = tool.args(["--module", &module(), "--delete-object"]).args(delete);
    let done = tool.args(["--pin", "1234"]).env("SOFTHSM2_CONF", &hsm.conf).output();
    let done = done.expect("pkcs11-tool is in the package opensc");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!says(&pki, &adit));
    adit.logs("the PKCS#11 token did not sign");
    hsm.put("hsm", "02", "again", &pki.server);
    assert!(says(&pki, &adit));
    adit.logs("the PKCS#11 token was lost and found again");
}
