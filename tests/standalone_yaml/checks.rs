//! `adit check` sees what `adit proxy` and `adit run` would see.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::world::{Backend, World, run};

/// Fails, and says so.
fn refused(words: &[&str], says: &str) {
    let (code, stdout, stderr) = run(words);
    assert_eq!(code, 3, "{words:?}: {stdout}{stderr}");
    assert!(stderr.contains(says), "{words:?}: {stderr}");
}

#[test]
fn files_are_opened_as_a_start_would_open_them() {
    let world = World::new();
    world.sign("other", "other", None);
    let db = Backend::start("db");
    let good = format!("services:\n{}", world.server("s", 8443, db.addr, "allow: { all: true }"));
    let path = world.write("f.yaml", &good);
    let path = path.to_str().unwrap();
    assert_eq!(run(&["check", path]).0, 0);
    world.write("list.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let crl = format!(", crls: [{}] }}", world.file("list.crl").display());
    for (was, is, says) in [
        ("server.crt", "missing.crt".to_owned(), "missing.crt"),
        ("server.key", "missing.key".into(), "missing.key"),
        ("ca.crt", "missing.ca".into(), "missing.ca"),
        ("server.key", "other.key".into(), "the private key is not that of the certificate"),
        (" },", crl + ",", "list.crl"),
        ("all: true", format!("policies: {}", world.file("none.yaml").display()), "none.yaml"),
        (
            "all: true",
            format!("rego: {{ file: {}, query: data.x }}", world.file("none.rego").display()),
            "none.rego",
        ),
    ] {
        let bad = good.replacen(was, &is, 1);
        assert_ne!(bad, good);
        world.write("f.yaml", &bad);
        refused(&["check", path], says);
        let elsewhere = run(&["check", "--no-files", path]);
        assert_eq!(elsewhere.0, 0, "for another machine: {elsewhere:?}");
        let (code, stdout, _) = run(&["check", "--output", "json", path]);
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert!(code == 3 && json["ok"] == false, "{json}");
        assert_eq!(json["faults"].as_array().unwrap().len(), 1, "{json}");
        assert_eq!(json["faults"][0]["line"], 2, "{json}");
    }
}

#[test]
fn the_files_of_a_mesh_are_opened_too() {
    let world = World::new();
    world.sign("web", "web", Some("spiffe://td/ns/shop/sa/web"));
    world.sign("other", "other", None);
    let at = |file: &str| world.file(file).display().to_string();
    let mesh = format!(
        "trustDomain: td\nca: {{ files: {{ certificate: {}, privateKey: {}, bundle: {} }} }}\n",
        at("web.crt"),
        at("web.key"),
        at("ca.crt")
    );
    let path = world.write("mesh.yaml", &mesh);
    let path = path.to_str().unwrap();
    let (code, _, stderr) = run(&["check", path]);
    assert_eq!(code, 0, "{stderr}");
    for (was, is, says) in [
        ("web.crt", "missing.crt", "missing.crt"),
        ("web.key", "other.key", "the private key is not that of the certificate"),
        ("ca.crt", "other.crt", "mesh.yaml:2:"),
        ("trustDomain: td", "trustDomain: other.td", "and the mesh file says other.td"),
    ] {
        world.write("mesh.yaml", &mesh.replacen(was, is, 1));
        refused(&["check", path], says);
        assert_eq!(run(&["check", "--no-files", path]).0, 0, "{was}");
    }
    let istiod = format!(
        "trustDomain: td\nca: {{ istiod: {{ address: 'https://localhost:15012', \
         token: {}, roots: {} }} }}\n",
        at("no-token"),
        at("ca.crt")
    );
    world.write("mesh.yaml", &istiod);
    refused(&["check", path], "no-token");
}

#[test]
fn names_that_no_certificate_can_have_are_refused() {
    let world = World::new();
    let roots = world.file("ca.crt");
    for name in ["localhost:443", "spiffe://td/ns/a/sa/b", "a b", "-", "https://db"] {
        let client = format!(
            "services:\n- {{ name: c, mode: client, listen: 'localhost:1', target: 'db:443', \
             authentication: disabled, serverName: '{name}', credential: {{ roots: {} }} }}\n",
            roots.display()
        );
        let path = world.write("f.yaml", &client);
        refused(&["check", path.to_str().unwrap()], "neither a DNS name nor an IP address");
        let target = ["client", "--listen", "localhost:1", "--target", "db:443"];
        let ca = roots.to_str().unwrap();
        let more = ["--disable-authentication", "--cacert", ca, "--override-server-name", name];
        let (code, _, stderr) = run(&[&target[..], &more[..]].concat());
        assert!(code == 1 && stderr.contains("neither a DNS name nor"), "{name}: {stderr}");
    }
}

const MESH: &str = "
trustDomain: td
ca: { embedded: { dir: /ca } }
workloads:
- { name: web, namespace: shop, serviceAccount: web, addresses: [10.0.0.1] }
policies:
- metadata: { name: p, namespace: shop }
  spec: { rules: [{ from: [{ source: { principals: [td/ns/shop/sa/web] } }] }] }
";

#[test]
fn who_is_nobody_is_warned_of_and_strict_fails() {
    let world = World::new();
    let check = |text: &str, more: &[&str]| {
        let path = world.write("mesh.yaml", text);
        run(&[&["check", path.to_str().unwrap()][..], more].concat())
    };
    let right = check(MESH, &["--strict"]);
    assert_eq!(right.0, 0, "{right:?}");
    for (was, is, says) in [
        ("sa/web]", "sa/wbe]", "principal td/ns/shop/sa/wbe"),
        ("[td/ns", "[dt/ns", "principal dt/ns/shop/sa/web"),
        ("principals: [td/ns/shop/sa/web]", "namespaces: [shpo]", "namespace shpo"),
        (
            "principals: [td/ns/shop/sa/web]",
            "serviceAccounts: [shop/wbe]",
            "serviceAccount shop/wbe",
        ),
        ("spec: {", "spec: { selector: { matchLabels: { app: wbe } },", "applies to no workload"),
        ("{ rules:", "{ action: DENY, rules:", ""),
    ] {
        let text = MESH.replacen(was, is, 1);
        assert_ne!(text, MESH);
        let (code, stdout, _) = check(&text, &[]);
        let warned = !says.is_empty();
        assert!(code == 0 && stdout.contains("(warning)") == warned, "{is}: {stdout}");
        assert!(stdout.contains(says), "{is}: {stdout}");
        assert_eq!(check(&text, &["--strict"]).0, i32::from(warned), "{is}");
    }
    let federated = MESH.replace("td/ns/shop/sa/web", "other.td/ns/a/sa/b")
        + "federation: { trustDomains: [{ name: other.td, bundleFile: /none }] }\n";
    let (code, stdout, stderr) = check(&federated, &["--no-files", "--strict"]);
    assert_eq!(code, 0, "who is elsewhere is not known here: {stdout}{stderr}");
    let netns = MESH.replace("addresses", "netns: there-is-none, addresses");
    let (code, stdout, _) = check(&netns, &[]);
    assert!(code == 0 && stdout.contains("/run/netns/there-is-none is not there"), "{stdout}");
}

#[test]
fn standard_input_is_checked_under_the_name_of_a_dash() {
    for (text, code, says) in [(MESH, 0, "-: right. 1 workloads"), ("services: 5", 3, "-:1:")] {
        let mut adit = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(["check", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        adit.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let done = adit.wait_with_output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(done.status.code() == Some(code) && said.contains(says), "{said}");
    }
}

#[test]
fn a_fault_that_follows_from_another_is_not_listed() {
    let world = World::new();
    let db = Backend::start("db");
    let good = format!("services:\n{}", world.server("s", 8443, db.addr, "allow: { all: true }"));
    let mesh = format!(
        "{MESH}services:\n- {{ hostname: db.shop.svc, addresses: [10.0.0.9], workloads: [shop/web] }}\n"
    );
    for (text, was, is) in [
        (&good, "name: s", "nmae: s"),
        (&good, "mode: server", "mode: sever"),
        (&good, "target: '", "target: 'x y"),
        (&good, "target:", "tarqet:"),
        (&good, "all: true", "al: true"),
        (&good, "certificate:", "certficate:"),
        (&mesh, "trustDomain: td", "trustDomain: T/D"),
        (&mesh, "name: web", "nmae: web"),
        (&mesh, "[10.0.0.1]", "[10.0.0.256]"),
        (&mesh, "namespace: shop, serviceAccount", "namespace: 'a/b', serviceAccount"),
        (&mesh, "principals:", "principlas:"),
    ] {
        let bad = text.replacen(was, is, 1);
        assert_ne!(bad, **text, "{was}");
        let path = world.write("f.yaml", &bad);
        let (code, stdout, _) = run(&["check", "--output", "json", path.to_str().unwrap()]);
        let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(code, 3);
        assert_eq!(json["faults"].as_array().unwrap().len(), 1, "{is}: {json:#}");
    }
}
