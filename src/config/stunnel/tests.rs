use std::path::Path;

use super::*;
use crate::config::check_standalone;

/// What files have, by the ends of their names.
fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let ends = |end: &str| path.to_string_lossy().ends_with(end);
    if ends("missing.pem") {
        return Err("missing.pem: no such file".into());
    }
    let of = |letter: &str, subject: &str| Certificate {
        pin: format!("sha256:{}=", letter.repeat(43)),
        subject: subject.into(),
        not_after: "Jan  1 00:00:00 2100 +00:00".into(),
        named: true,
        ..Certificate::default()
    };
    let good = of("A", "CN=good");
    Ok(match () {
        () if ends("old.pem") => vec![Certificate { expired: true, ..of("C", "CN=old") }, good],
        () if ends("cn.pem") => {
            vec![Certificate { named: false, self_signed: true, ..of("A", "CN=alone") }]
        }
        () => vec![good],
    })
}

/// Snippets as they are found in manuals and tutorials, what is in our YAML, and the grave
/// warnings.
const CASES: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "the sample: a POP3 server behind TLS, as Debian ships it",
        "; a comment\nsetuid = stunnel4\nsetgid = stunnel4\npid = /var/run/stunnel4.pid\n\
         cert = /etc/stunnel/mail.pem\nsocket = l:TCP_NODELAY=1\n[pop3s]\naccept  = 995\n\
         connect = 110\n",
        &[
            "listen: \":995\"",
            "target: \"localhost:110\"",
            "keystore: \"/etc/stunnel/mail.pem\"",
            "authentication: disabled",
        ],
        &[],
    ),
    (
        "Redis for clients that prove themselves",
        "[redis]\naccept = 10.0.0.5:6380\nconnect = 127.0.0.1:6379\ncert = /e/r.crt\n\
         key = /e/r.key\n\
         CAfile = /e/ca.crt\nverify = 2\nCRLfile = /e/ca.crl\n",
        &[
            "certificate: \"/e/r.crt\", privateKey: \"/e/r.key\", roots: \"/e/ca.crt\", crls: \
             [\"/e/ca.crl\"]",
            "allow: { all: true }",
        ],
        &[],
    ),
    (
        "a client to Gmail with the host checked",
        "[gmail-smtp]\nclient = yes\naccept = 127.0.0.1:25\nconnect = smtp.gmail.com:465\n\
         verifyChain = yes\n\
         CApath = /etc/ssl/certs\ncheckHost = smtp.gmail.com\nOCSPaia = yes\n",
        &[
            "mode: client",
            "listen: \"127.0.0.1:25\"",
            "target: \"smtp.gmail.com:465\"",
            "serverName: \"smtp.gmail.com\"",
            "authentication: disabled",
        ],
        &["OCSPaia = yes"],
    ),
    (
        "OpenVPN over TLS with one pinned client",
        "[openvpn]\naccept = 443\nconnect = 127.0.0.1:1194\ncert = s.pem\nverifyPeer = yes\n\
         CAfile = clients.pem\n",
        &["pins: [\"sha256:", "a pin here does not expire"],
        &[],
    ),
    (
        "pins that cannot be read admit nobody",
        "[x]\naccept = 443\nconnect = 80\ncert = s.pem\nverifyPeer = yes\nCAfile = missing.pem\n",
        &["pins: []"],
        &["CAfile = missing.pem: verifyPeer allows its certificates, but missing.pem: no such \
           file"],
    ),
    (
        "HTTPS for HAProxy, with the client's address",
        "sslVersionMin = TLSv1.2\noptions = NO_SSLv3\nciphers = HIGH:!aNULL\n[https]\n\
         accept = https\n\
         connect = /run/haproxy.sock\ncert = h.pem\nprotocol = proxy\nTIMEOUTclose = 0\n\
         TIMEOUTconnect = 5\nTIMEOUTidle = 600\n",
        &[
            "listen: \":443\"",
            "target: \"unix:/run/haproxy.sock\"",
            "proxyProtocol: { send: v1 }",
            "timeouts: { connect: 5s, close: 0s, idle: 600s }",
            "ciphers = HIGH:!aNULL: adit always uses AEAD",
        ],
        &[],
    ),
    (
        "two back ends in turn, on another host",
        "[web]\naccept = :::8443\nconnect = 10.1.1.1:80\nconnect = 10.1.1.2:80\nfailover = rr\n\
         cert = w.pem\n",
        &[
            "listen: \"[::]:8443\"",
            "targets: [\"10.1.1.1:80\", \"10.1.1.2:80\"]",
            "balance: roundRobin",
            "unsafeTarget: true",
        ],
        &[],
    ),
    (
        "pre-shared keys",
        "[psk]\naccept = 4433\nconnect = 22\nciphers = PSK\nPSKsecrets = /etc/stunnel/psk.txt\n",
        &["mode: server"],
        &["PSKsecrets: adit has no pre-shared keys", "a server needs `cert`"],
    ),
    (
        "STARTTLS, and a client without checks",
        "[smtp]\nclient = yes\nprotocol = smtp\naccept = 127.0.0.1:2525\n\
         connect = mail.example:25\n",
        &["stunnel did not check the target's certificate; adit does"],
        &["STARTTLS"],
    ),
    (
        "PostgreSQL asks first",
        "protocol = pgsql\n[db]\naccept = 5433\nconnect = 5432\ncert = s.pem\n",
        &["starttls: postgres"],
        &[],
    ),
    (
        "names checked of callers; a name and another SNI",
        "[in]\naccept = 1\nconnect = 2\ncert = c\nverifyChain = yes\nCAfile = ca\n\
         checkHost = a.example\ncheckIP = 10.0.0.9\n\
         [out]\nclient = yes\naccept = localhost:3\nconnect = b:4\nverifyChain = yes\nCAfile = ca\n\
         checkHost = a\nsni = z\ncheckEmail = x@y\n",
        &["allow: { dnsNames: [\"a.example\"], ips: [\"10.0.0.9\"] }", "serverName: \"a\""],
        &["checkHost = a: adit takes one name", "checkEmail = x@y"],
    ),
    (
        "wrappers, a program, a half-checked peer, a virtual host",
        "[a]\naccept = 1\nconnect = 2\ncert = c\nlibwrap = yes\nverify = 1\n\
         [b]\naccept = 3\nexec = /bin/sh\ncert = c\n[c]\nsni = a:*.example\nconnect = 5\n\
         nonsense = 1\n",
        &["- name: \"a\""],
        &[
            "libwrap = yes",
            "verify = 1",
            "exec = /bin/sh",
            "connect is missing",
            "[b] is left out",
            "accept is missing",
            "nonsense: is not a known option",
            "[c] is left out",
        ],
    ),
    (
        "what stands before the sections adds up with them",
        "options = NO_TLSv1_2\noptions = NO_SSLv3\ncheckHost = a.example\nconnect = 1\n\
         CRLfile = g.crl\n\
         [web]\naccept = 8443\nconnect = 2\ncert = c\nverifyChain = yes\nCAfile = ca\n\
         checkHost = b.example\nCRLfile = s.crl\noptions = CIPHER_SERVER_PREFERENCE\n",
        &[
            "targets: [\"localhost:1\", \"localhost:2\"]",
            "crls: [\"g.crl\", \"s.crl\"]",
            "dnsNames: [\"a.example\", \"b.example\"]",
            "tls: { minVersion: TLS1.3 }",
        ],
        &[],
    ),
    (
        "several addresses to listen at, one of them before the sections",
        "accept = 1\n[web]\naccept = 127.0.0.1:2\nconnect = 3\ncert = c\n",
        &["name: \"web\"", "name: \"web-2\"", "listen: \":1\"", "listen: \"127.0.0.1:2\""],
        &[],
    ),
    (
        "the newest version is carried, by either name",
        "cert = c\nconnect = 1\n[a]\naccept = 2\nsslVersionMax = TLSv1.2\n[b]\naccept = 3\n\
         sslVersion = TLSv1.2\n[c]\naccept = 4\noptions = NO_TLSv1_3\n",
        &["tls: { maxVersion: TLS1.2 }"],
        &[],
    ),
    (
        "TLS 1.3 alone is carried, by each of its names",
        "cert = c\nconnect = 1\n[a]\naccept = 2\nsslVersionMin = TLSv1.3\n[b]\naccept = 3\n\
         sslVersion = TLSv1.3\n[c]\naccept = 4\noptions = NO_TLSv1_2\n",
        &["tls: { minVersion: TLS1.3 }"],
        &[],
    ),
    (
        "what softens a check is named, and the check stays",
        "verifyChain = yes\nCAfile = c\ncert = c\nconnect = 1\n[a]\naccept = 2\nverify = 0\n\
         [b]\naccept = 3\nrequireCert = no\n[c]\naccept = 4\nverify = 2\nverifyChain = no\n",
        &["allow: { all: true }"],
        &[
            "verify = 0: adit still requires",
            "requireCert = no: a caller",
            "verifyChain = no: adit still requires",
        ],
    ),
    (
        "a demand after requireCert = no is one",
        "requireCert = no\nCAfile = c\ncert = c\nconnect = 1\n[a]\naccept = 2\nverifyChain = yes\n",
        &["allow: { all: true }"],
        &[],
    ),
    (
        "names that a client cannot ask for",
        "client = yes\nverifyChain = yes\nCAfile = c\nconnect = h:1\n[a]\naccept = localhost:2\n\
         checkHost = *.example\n[b]\naccept = localhost:3\nsni =\n",
        &["sni = : SNI is always sent"],
        &["checkHost = *.example: is not a valid server name"],
    ),
    (
        "what is lost and protects nothing is said",
        "cert = c\nconnect = 1\n[a]\naccept = 2\nreset = no\nrenegotiation = yes\n\
         ticketKeySecret = x\n",
        &["reset = no: ", "renegotiation = yes: ", "ticketKeySecret: "],
        &[],
    ),
    (
        "what a section says of versions replaces, an option that is taken back is none",
        "cert = c\nconnect = 1\nsslVersion = TLSv1.3\noptions = NO_TLSv1.3\n\
         [a]\naccept = 2\nsslVersionMin = TLSv1.2\noptions = -NO_TLSv1.3\n",
        &["listen: \":2\""],
        &[],
    ),
    (
        "a pinned certificate that has expired, and one that will",
        "[x]\naccept = 443\nconnect = 80\ncert = s.pem\nverifyPeer = yes\nCAfile = old.pem\n",
        &["pins: [\"sha256:AAAA", "stunnel refuses CN=good from Jan  1 00:00:00 2100 +00:00 on"],
        &["CAfile = old.pem: verifyPeer: CN=old is not valid now, so it is left out"],
    ),
    (
        "a pin beside a chain and a name",
        "[x]\naccept = 443\nconnect = 80\ncert = s.pem\nverify = 3\nCAfile = ca.pem\n\
         checkHost = a\n",
        &["pins: [\"sha256:"],
        &["verifyChain beside verifyPeer", "checkHost = a: adit checks the peer's key instead"],
    ),
    (
        "a target whose certificate has a common name alone",
        "[x]\nclient = yes\naccept = localhost:1\nconnect = h:2\nverifyChain = yes\n\
         CAfile = cn.pem\n",
        &["roots: \"cn.pem\""],
        &["CN=alone is self-signed and without a DNS name or an address (subjectAltName)"],
    ),
    (
        "our own certificate has a common name alone",
        "[x]\naccept = 1\nconnect = 2\ncert = cn.pem\n",
        &["cert = cn.pem: CN=alone is self-signed and without a DNS name"],
        &[],
    ),
    (
        "mail addresses",
        "checkEmail = a@b\n[x]\naccept = 1\nconnect = 2\ncert = c\nverifyChain = yes\nCAfile = ca\n\
         checkEmail = c@d\ncheckHost = e\n",
        &["allow: { dnsNames: [\"e\"] }"],
        &["checkEmail = a@b", "checkEmail = c@d"],
    ),
    (
        "no section, no accept: a program of inetd's",
        "cert = both.pem\nexec = /usr/sbin/imapd\nexecargs = imapd\n",
        &["services: []"],
        &[
            "exec = /usr/sbin",
            "execargs: adit does not start programs",
            "accept is missing",
            "[stunnel] is left out",
        ],
    ),
    (
        "only what stands before sections",
        "cert = /x.pem\nnonsense = 1\nPSKsecrets = /x\n",
        &["services: []"],
        &[
            "nonsense: is not a known option",
            "PSKsecrets: adit has no",
            "accept is missing",
            "[stunnel] is left out",
        ],
    ),
    ("nothing", "; nothing\n", &["services: []"], &["the file has no service"]),
    (
        "bytes of another encoding, in a comment and in a line",
        "; caf\u{fffd}\n[x]\naccept = 1\nconnect = 2\ncert = c\nCAfile = /caf\u{fffd}\n",
        &["listen: \":1\""],
        &["is not written in UTF-8"],
    ),
    (
        "no sections: what stands before them is the service",
        "client = yes\naccept = 127.0.0.1:1\nconnect = h:2\ndebug = 7\nno line\n",
        &["- name: \"stunnel\"", "target: \"h:2\""],
        &["expected `option = value`"],
    ),
    (
        "options of the process within a section are named",
        "[x]\naccept = 1\nconnect = 2\ncert = c\ninclude = /d\nfips = yes\n",
        &["name: \"x\""],
        &["adit does not read this directory", "FIPS"],
    ),
    (
        "what stunnel refuses opens nothing",
        "[x]\naccept = 1\nconnect = 2\ncert = c\nverifyChain = true\nCAfile = c\n\
         [y]\naccept = 3\nconnect = 4\ncert = c\nverify = two\nCAfile = c\n",
        &[],
        &["verifyChain = true", "[x] is left out", "verify = two", "[y] is left out"],
    ),
    (
        "a section with an odd name adds nothing to the one before",
        "[x]\naccept = 1\nconnect = 2\ncert = c\nverifyChain = yes\nCAfile = c\n\
         [caf\u{fffd}]\naccept = 3\nconnect = 4\ncert = c\n[z] ; note\naccept = 5\nconnect = 6\n\
         cert = c\n",
        &["target: \"localhost:2\"", "target: \"localhost:4\"", "target: \"localhost:6\""],
        &["is not written in UTF-8", "is not a valid section name"],
    ),
];

#[test]
fn what_is_found_in_the_wild() {
    for (case, conf, lines, grave) in CASES {
        let imported = import(conf, &certificates);
        for line in *lines {
            assert!(imported.yaml.contains(line), "{case}: {line:?} is not in\n{}", imported.yaml);
        }
        let found: Vec<_> = imported.warnings.iter().filter(|remark| remark.grave).collect();
        for says in *grave {
            assert!(
                found.iter().any(|remark| remark.message.contains(says)),
                "{case}: {says:?} is not in {found:?}"
            );
        }
        assert_eq!(found.len(), grave.len(), "{case}: {found:?}");
        assert_eq!(imported.is_grave(), !grave.is_empty());
        for remark in &imported.warnings {
            assert!(imported.yaml.contains(&remark.message), "{case}: no comment {remark:?}");
        }
        let read = check_standalone("imported", &imported.yaml);
        if grave.is_empty() {
            read.unwrap_or_else(|faults| panic!("{case}: {faults}\n{}", imported.yaml));
        }
    }
}

#[test]
fn the_newest_version_is_carried_by_each_of_its_names() {
    let (_, conf, ..) = CASES.iter().find(|(case, ..)| case.starts_with("the newest")).unwrap();
    let imported = import(conf, &certificates);
    assert_eq!(imported.yaml.matches("maxVersion: TLS1.2").count(), 3, "{}", imported.yaml);
    let (_, conf, ..) = CASES.iter().find(|(case, ..)| case.starts_with("TLS 1.3 alone")).unwrap();
    let imported = import(conf, &certificates);
    assert_eq!(imported.yaml.matches("minVersion: TLS1.3").count(), 3, "{}", imported.yaml);
    for none in ["sslVersionMax = TLSv1.1", "options = NO_TLSv1_2\noptions = NO_TLSv1_3"] {
        let conf = format!("cert = c\nconnect = 1\n[a]\naccept = 2\n{none}\n");
        let imported = import(&conf, &certificates);
        assert!(imported.is_grave() && !imported.yaml.contains("maxVersion"), "{}", imported.yaml);
    }
}

#[test]
fn pins_of_nobody_are_refused_by_our_reader() {
    let (_, conf, ..) = CASES[4];
    assert!(check_standalone("imported", &import(conf, &certificates).yaml).is_err());
}

/// The system's roots vouch for whoever has a certificate of the Web's: no replacement.
#[test]
fn callers_whose_roots_are_not_carried_are_refused_by_our_reader() {
    let mail = "CAfile = ca\ncheckEmail = a@b\n";
    for roots in ["", "CApath = /etc/stunnel/roots\n", "checkHost = a.example\n", mail] {
        let conf = format!("[in]\naccept = 1\nconnect = 2\ncert = c\nverify = 2\n{roots}");
        let imported = import(&conf, &certificates);
        assert!(imported.is_grave(), "{conf}");
        assert!(check_standalone("imported", &imported.yaml).is_err(), "{}", imported.yaml);
    }
}

#[test]
fn nothing_of_a_line_gets_out_of_its_comment_or_its_quotes() {
    let conf = "[a\u{1}b]\naccept = 1\nconnect = 2\ncert = c\" } evil: \u{7}x\nodd = \u{1b}[31m\n";
    let imported = import(conf, &certificates);
    assert!(imported.yaml.contains(r#"keystore: "c\" } evil: \u0007x""#), "{}", imported.yaml);
    assert!(!imported.yaml.contains('\u{1b}'));
    let comments = imported.yaml.lines().filter(|line| line.contains("odd"));
    comments.for_each(|line| assert!(line.trim_start().starts_with('#'), "{line}"));
}

/// Passwords, PINs, headers and keys stand in such files; what is printed goes into logs.
#[test]
fn no_secret_of_a_stunnel_conf_is_copied() {
    let service = "[x]\nclient = yes\naccept = 127.0.0.1:1\nconnect = h:2\n";
    for (option, value) in [
        ("engineCtrl", "PIN:s3cret"),
        ("engineCtrl", "s3cret"),
        ("protocolPassword", "s3cret"),
        ("protocolHeader", "Proxy-Authorization: Basic s3cret"),
        ("PSKsecrets", "s3cret"),
        ("PSKidentity", "s3cret"),
        ("ticketKeySecret", "s3cret"),
        ("ticketMacSecret", "s3cret"),
        ("key", "pkcs11:token=t;object=k?pin-value=s3cret"),
        ("cert", "PKCS11:token=t?pin-value=s3cret"),
        ("CAfile", "pkcs11:token=t?pin-value=s3cret"),
        ("setEnv", "PIN=s3cret"),
        ("execArgs", "p -p s3cret"),
        ("config", "PIN:s3cret"),
        ("providerParameter", "pkcs11:pin=s3cret"),
        ("protocolPasword", "s3cret"),
        ("MC4CAQAwBQYDK2VwBCIEIs3cretAAAAAAAAA", ""),
        ("MIIs3cret/", "="),
        ("debug", "s3cret-password"),
    ] {
        for conf in [
            format!("{service}{option} = {value}\n"),
            format!("{option} = {value}\n{service}"),
            format!("{service}{option} = \u{fffd}{value}\n"),
            format!("{service}{option} {value}\n"),
        ] {
            let Imported { yaml, warnings } = import(&conf, &certificates);
            assert!(!yaml.contains("s3cret"), "{conf}\n{yaml}");
            assert!(!warnings.is_empty(), "{conf}");
            let copied = warnings.iter().any(|remark| remark.message.contains("s3cret"));
            assert!(!copied, "{conf}\n{warnings:?}");
        }
    }
    let named = import(&format!("{service}protocolPassword = s3cret\n"), &certificates);
    assert!(named.warnings.iter().any(|r| r.message.starts_with("protocolPassword: ")));
}
