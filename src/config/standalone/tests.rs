use std::time::Duration;

use super::*;
use crate::{
    credentials::{
        Credential,
        acme::LETS_ENCRYPT,
        store::{CredentialSource, CredentialsConfig},
    },
    observe::logging::LogFormat,
    roles::standalone::{Balance, CipherGroup, ProxyMode},
    tls::record::AeadSetting,
};

const SERVER: &str = "
- name: db
  mode: server
  listen: 127.0.0.1:8443
  target: localhost:5432
  credential: { certificate: /c, privateKey: /k, roots: /r, crls: [/crl] }
  allow: { commonNames: [app] }
";

fn check(text: &str) -> Result<StandaloneFile, String> {
    check_standalone("f", text).map_err(|faults| faults.to_string())
}

fn services(text: &str) -> String {
    format!("services:{text}")
}

#[test]
#[cfg_attr(
    not(all(feature = "acme", feature = "pkcs11")),
    ignore = "needs the cargo features acme and pkcs11"
)]
fn a_whole_file() {
    let text = services(SERVER)
        + "
- name: out
  mode: client
  listen: unix:/run/out.sock
  targets: [a.example:1, b.example:2]
  balance: roundRobin
  health: { interval: 5s, timeout: 500ms }
  credential: { keystore: /s.p12, passwordFile: /p }
  verify: { ids: ['spiffe://td/db'], uris: ['spiffe://td/*'], dnsNames: [d] }
  serverName: db.example
  proxy: 'socks5://10.0.0.1:1080'
  tls: { minVersion: TLS1.2, maxVersion: TLS1.2, cipherSuites: [CHACHA] }
  alpn: [postgresql, h2]
  starttls: postgres
  quiet: [conns, handshake-errs]
  timeouts: { connect: 3s, close: 0, idle: 2h, lifetime: 1h }
  maxConnections: 9
- { name: w, mode: server, listen: ':1', target: 'unix:/x', credential: { workloadApi: 'unix:///w' }, authentication: disabled, proxyProtocol: { accept: true, send: v1 } }
- { name: le, mode: server, listen: ':4', target: 'unix:/x', credential: { acme: { name: db.example.org, email: a@b.c, agreeToTerms: true, storage: /s }, roots: /r }, allow: { all: true } }
- { name: hsm, mode: server, listen: ':3', target: 'unix:/x', credential: { certificate: /c, pkcs11: { module: /m.so, tokenLabel: t, pinFile: /pin }, roots: /r }, allow: { all: true } }
- { name: t, mode: client, listen: 'localhost:2', target: '10.0.0.1:80', credential: { workloadApi: 'unix:///w' }, verify: { ids: ['spiffe://td/a'] }, tunnel: { protocol: hbone, address: '10.0.0.2:15008' } }
drain: { deadline: 7s }
accessLog: { format: json }
workers: 3
tls: { aead: ring }
sandbox: required
status: { listen: 'http://localhost:6060', shutdown: true }
metrics: { prefix: shop, graphite: 'localhost:2003', interval: 10s }
timedReload: 1h
takeover: unix:/run/t
";
    let file = check(&text).unwrap();
    assert_eq!((file.globals.shutdown.as_secs(), file.globals.workers), (7, Some(3)));
    assert_eq!(file.globals.aead, AeadSetting::Ring);
    assert!(file.globals.sandbox.required && file.globals.sandbox.landlock);
    assert_eq!(file.globals.log_format, LogFormat::Json);
    let alpn = file.services.iter().find(|s| s.name == "out").map(|s| s.tls.alpn.clone());
    let alpn: Vec<String> = alpn.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(alpn, ["postgresql", "h2"]);
    let asking: Vec<bool> = file.services.iter().map(|s| s.tls.starttls.is_some()).collect();
    assert_eq!(asking.iter().filter(|asking| **asking).count(), 1);
    let status = &file.globals.status;
    assert!(status.shutdown && status.address.is_some() && status.graphite.is_some());
    assert_eq!((status.prefix.as_str(), status.every.as_secs()), ("shop", 10));
    assert_eq!(file.globals.timed_reload, Some(Duration::from_secs(3600)));
    assert!(file.globals.takeover.is_some());
    let [db, out, w, le, hsm, t] = file.services.as_slice() else { panic!() };
    assert!(db.health.is_none() && db.access.cn == ["app"] && db.tls.authenticate);
    assert_eq!((out.targets.len(), out.balance), (2, Balance::RoundRobin));
    assert_eq!(out.health.as_ref().unwrap().interval.as_secs(), 5);
    assert_eq!(out.proxy.as_ref().unwrap().to_string(), "socks5://10.0.0.1:1080");
    assert!(out.tls.tls12_only && out.tls.ciphers == [CipherGroup::ChaCha]);
    assert!(out.quiet.conns && out.quiet.handshake_errs && !out.quiet.conn_errs);
    assert_eq!((out.limits.half_closed, out.max_connections), (Some(Duration::ZERO), Some(9)));
    assert_eq!((out.limits.idle, db.limits.idle), (Some(Duration::from_secs(7200)), None));
    let CredentialsConfig::Files {
        credential: Some(CredentialSource::Files(Credential::Keystore { password, .. })),
        ..
    } = &out.credentials
    else {
        panic!()
    };
    assert!(password.is_some());
    let CredentialsConfig::Files {
        credential: Some(CredentialSource::Token { token, .. }), ..
    } = &hsm.credentials
    else {
        panic!()
    };
    assert_eq!(le.credentials.acme().unwrap().directory, LETS_ENCRYPT);
    assert_eq!(token.label.as_deref(), Some("t"));
    assert!(w.proxy_in && w.proxy_out == Some(ProxyMode::V1) && !w.tls.authenticate);
    assert_eq!(t.hbone.as_ref().unwrap().expect.len(), 1);
}

#[test]
fn faults_say_what_to_do() {
    for (was, is, says) in [
        ("name: db", "name: 'd b'", "a name must have 1 to 63"),
        ("mode: server", "mode: sever", "did you mean server?"),
        ("mode: server", "mode: client", "is for the other mode; in this mode the key is verify"),
        ("listen: 127.0.0.1:8443", "listen: nowhere", "port is missing"),
        ("listen: 127.0.0.1:8443", "lisen: 127.0.0.1:8443", "did you mean listen?"),
        ("target: localhost:5432", "target: db.example:5432", "unsafeTarget: true"),
        ("target: localhost:5432", "targets: []", "target is missing"),
        ("target: localhost:5432", "targets: ['unix:/a', 'unix:/a']", "is listed twice"),
        ("target: localhost:5432", "target: 'systemd:x'", "systemd:NAME is for listen"),
        ("target: localhost:5432", "target: 'unix:/a'\n  targets: ['unix:/b']", "use one of them"),
        ("privateKey: /k, ", "", "needs either privateKey or pkcs11"),
        ("privateKey: /k, ", "privateKey: /k, pkcs11: { module: /m }, ", "needs either"),
        ("privateKey: /k, ", "pkcs11: { tokenLabel: t }, ", "module is missing"),
        ("certificate: /c, privateKey: /k, ", "", "a certificate is needed"),
        ("certificate: /c", "keystore: /s, certificate: /c", "exclude each other"),
        ("  credential: {", "  credentials: {", "did you mean credential?"),
        ("  allow: { commonNames: [app] }", "", "no client is allowed"),
        ("commonNames: [app]", "", "is empty, so it allows no peer"),
        ("commonNames", "comonNames", "did you mean commonNames?"),
        ("commonNames: [app]", "uris: [td/ns/shop]", "begins with its scheme"),
        ("commonNames: [app]", "dns: [app]", "did you mean dnsNames?"),
        ("commonNames: [app]", "ips: [app]", "for example 10.0.0.1"),
        ("commonNames: [app]", "all: yes", "must be true or false"),
        ("commonNames: [app]", "policies: /nowhere", "/nowhere"),
        ("commonNames: [app]", "rego: { file: /none.rego, query: data.p.ok }", "/none.rego: "),
        ("commonNames: [app]", "rego: { file: /none.rego }", "query is missing"),
        ("  allow:", "  authentication: disabled\n  allow:", "`allow` cannot be used"),
        ("  allow:", "  serverName: x\n  allow:", "is for the other mode"),
        ("  allow:", "  tls: { minVersion: TLS1.1 }\n  allow:", "must be TLS1.2, TLS1.3"),
        (
            "  allow:",
            "  tls: { minVersion: '1.3', maxVersion: TLS1.2 }\n  allow:",
            "no TLS version is left",
        ),
        ("  allow:", "  timeouts: { connect: 0 }\n  allow:", "connect must not be 0"),
        ("  allow:", "  tunnel: { protocol: hbon }\n  allow:", "did you mean hbone?"),
        (
            "  allow:",
            "  proxyProtocol: { accept: true }\n  tunnel: { protocol: hbone }\n  allow:",
            "be used with a tunnel",
        ),
        ("  allow:", "  health: { http: 'https://x' }\n  allow:", "or a /PATH"),
        ("  allow:", "  health: { interval: 1ms }\n  allow:", "at least 100ms"),
    ] {
        let text = services(&SERVER.replacen(was, is, 1));
        assert_ne!(text, services(SERVER), "{was}");
        let Err(faults) = check(&text) else { panic!("{is:?} is not an error") };
        assert!(faults.contains(says), "{is:?}: {faults}");
    }
    let twice = services(&format!("{SERVER}{SERVER}"));
    let faults = check(&twice).unwrap_err();
    assert!(faults.contains("already a service db"), "{faults}");
    assert!(faults.contains("db already listens at 127.0.0.1:8443"), "{faults}");
    assert!(check("services: []").unwrap().services.is_empty());
}

#[test]
fn all_faults_at_once_with_their_lines() {
    let text = services(&SERVER.replace("5432", "x").replace("app", "''"));
    let faults = check(&text).unwrap_err();
    assert!(faults.contains("f:5:11: services[0].target: "), "{faults}");
    assert!(faults.contains("f:7:26: services[0].allow.commonNames[0]: "), "{faults}");
    assert!(faults.ends_with("2 errors in f"), "what follows from them is not said: {faults}");
}

#[test]
fn what_is_missing_hides_no_other_error_of_a_service() {
    let text = services(
        "
- mode: sever
  listen: nowhere
  target: 'a:1'
  maxConnections: none
  quiet: [loud]
  timeouts: { idle: soon, lifetime: never }
  health: { interval: 1ms }
  credential: { certificate: /c, crls: {}, crl: { stale: later } }
  allow: { commonNames: [''] }
",
    );
    let faults = check(&text).unwrap_err();
    for expected in [
        "name is missing",
        "services[0].mode: \"sever\": must be server or client; did you mean server?",
        "services[0].listen:",
        "services[0].maxConnections:",
        "services[0].quiet[0]:",
        "services[0].timeouts.idle:",
        "services[0].timeouts.lifetime:",
        "services[0].health.interval:",
        "services[0].credential.crls:",
        "services[0].credential.crl.stale:",
        "services[0].allow.commonNames[0]:",
    ] {
        assert!(faults.contains(expected), "{expected}\nis not in\n{faults}");
    }
}

const POLICY: &str = "
metadata: { name: p }
spec: { action: ALLOW, rules: [{ from: [{ source: { principals: ['td/ns/a/sa/b'] } }] }] }
";

#[test]
fn policies_are_istio_documents() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policies.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load_policies(&file).map_err(|e| e.to_string())
    };
    assert!(read(POLICY).unwrap().allows());
    assert_eq!(read(&format!("{POLICY}---{POLICY}---\n")).unwrap().len(), 2);
    assert!(!read(&POLICY.replace("ALLOW", "DENY")).unwrap().allows());
    for (text, says) in [
        (POLICY.replace("principals", "requestPrincipals"), "is about HTTP (L7)"),
        (POLICY.replace("spec", "sepc"), "did you mean spec?"),
        (String::new(), "without one no client is allowed"),
    ] {
        let faults = read(&text).unwrap_err();
        assert!(faults.contains(says), "{faults}");
    }
    // In a file of services: their faults are its faults, and a DENY alone admits nobody.
    let with = |policy: &str| {
        read(policy).ok();
        let named = format!("policies: {}", file.display());
        check(&services(&SERVER.replace("commonNames: [app]", &named)))
    };
    with(POLICY).unwrap();
    let faults = with(&POLICY.replace("ALLOW", "DENY")).unwrap_err();
    assert!(faults.contains("no policy is an ALLOW"), "{faults}");
    let faults = with(&POLICY.replace("from", "form")).unwrap_err();
    assert!(faults.contains("did you mean from?"), "{faults}");
}

#[test]
fn what_kubectl_prints_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policies.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load_policies(&file).map_err(|e| e.to_string())
    };
    let one = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {\"kind\":\"AuthorizationPolicy\"}
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  generation: 1
  managedFields:
  - apiVersion: security.istio.io/v1
    fieldsType: FieldsV1
    fieldsV1: { \"f:spec\": { .: {}, \"f:action\": {} } }
    manager: kubectl-client-side-apply
    operation: Update
  name: p
  namespace: shop
  ownerReferences: [{ apiVersion: v1, kind: Deployment, name: d, uid: u }]
  resourceVersion: \"7\"
  uid: 00000000-0000-0000-0000-000000000000
spec: { action: ALLOW, rules: [{ from: [{ source: { principals: ['td/ns/a/sa/b'] } }] }] }
status:
  conditions: [{ type: Reconciled, status: \"True\" }]
";
    assert!(read(one).unwrap().allows());
    let indented: String = one.lines().map(|line| format!("  {line}\n")).collect();
    let item = indented.replacen("  apiVersion", "- apiVersion", 1);
    let list = format!(
        "apiVersion: v1\nitems:\n{item}{item}kind: List\nmetadata:\n  resourceVersion: \"\"\n"
    );
    assert_eq!(read(&list).unwrap().len(), 2);
    for (was, is, says) in [
        (
            "kind: AuthorizationPolicy",
            "kind: PeerAuthentication",
            "write `mtls: strict` or `mtls: permissive`",
        ),
        ("kind: AuthorizationPolicy", "kind: RequestAuthentication", "must be AuthorizationPolicy"),
        ("action: ALLOW", "action: AUDIT", "must be ALLOW or DENY"),
        ("items:", "item:", "did you mean items?"),
    ] {
        let faults = read(&list.replace(was, is)).unwrap_err();
        assert!(faults.contains(says), "{faults}");
    }
    assert!(
        read("apiVersion: v1\nkind: List\nitems: []\n")
            .unwrap_err()
            .contains("no client is allowed")
    );
}

#[test]
#[cfg_attr(not(feature = "rego"), ignore = "needs the cargo feature rego")]
fn a_rego_policy_is_a_name_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.rego");
    std::fs::write(&file, "package p\nok { true }").unwrap();
    let rego = format!("rego: {{ file: {}, query: data.p.ok }}", file.display());
    let read = check(&services(&SERVER.replace("commonNames: [app]", &rego))).unwrap();
    assert_eq!(read.services[0].access.rego.as_ref().unwrap().file, file);
}

#[test]
fn the_kind_of_a_file_is_seen() {
    for (text, standalone) in [
        (services(SERVER), true),
        ("services: []".into(), true),
        ("trustDomain: td\nservices: []\n".into(), false),
        ("policies: []".into(), false),
        (": {".into(), false),
    ] {
        assert_eq!(crate::config::kind(&text) == Some(FileKind::Services), standalone, "{text}");
    }
}
