//! `adit check` sees what `adit proxy` and `adit run` would see.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use super::world::{Backend, World, run};

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
        ("server.key", "other.key".into(), "the private key does not belong to the certificate"),
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
        assert_eq!(json["errors"].as_array().unwrap().len(), 1, "{json}");
        assert_eq!(json["errors"][0]["line"], 2, "{json}");
    }
}

#[test]
fn a_server_without_roots_is_a_warning_and_a_client_is_not() {
    let world = World::new();
    let db = Backend::start("db");
    let server = world.server("s", 8443, db.addr, "allow: { commonNames: [app] }");
    let roots = format!(", roots: {}", world.file("ca.crt").display());
    let without = server.replace(&roots, "");
    assert_ne!(without, server);
    let client = without
        .replace("mode: server", "mode: client")
        .replace("allow: { commonNames: [app] }", "serverName: db.example");
    for (service, warned) in [(&server, false), (&without, true), (&client, false)] {
        let path = world.write("f.yaml", &format!("services:\n{service}"));
        let (code, stdout, stderr) = run(&["check", "--no-files", path.to_str().unwrap()]);
        assert_eq!(code, 0, "{stdout}{stderr}");
        let said = stdout.contains("warning: ") && stdout.contains("from any public CA");
        assert_eq!(said, warned, "{stdout}");
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
        ("web.key", "other.key", "the private key does not belong to the certificate"),
        ("ca.crt", "other.crt", "mesh.yaml:2:"),
        ("trustDomain: td", "trustDomain: other.td", "but the mesh file says other.td"),
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
        assert!(code == 0 && stdout.contains("warning: ") == warned, "{is}: {stdout}");
        assert!(stdout.contains(says), "{is}: {stdout}");
        assert_eq!(check(&text, &["--strict"]).0, i32::from(warned), "{is}");
    }
    let federated = MESH.replace("td/ns/shop/sa/web", "other.td/ns/a/sa/b")
        + "federation: { trustDomains: [{ name: other.td, bundleFile: /none }] }\n";
    let (code, stdout, stderr) = check(&federated, &["--no-files", "--strict"]);
    assert_eq!(code, 0, "who is elsewhere is not known here: {stdout}{stderr}");
    let netns = MESH.replace("addresses", "netns: there-is-none, addresses");
    let (code, stdout, _) = check(&netns, &[]);
    assert!(code == 0 && stdout.contains("/run/netns/there-is-none does not exist"), "{stdout}");
}

#[test]
fn standard_input_is_checked_under_the_name_of_a_dash() {
    for (text, code, says) in [(MESH, 0, "-: OK: 1 workload"), ("services: 5", 3, "-:1:")] {
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
        "{MESH}services:\n- {{ hostname: db.shop.svc, addresses: [10.0.0.9], workloads: \
         [shop/web] }}\n"
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
        assert_eq!(json["errors"].as_array().unwrap().len(), 1, "{is}: {json:#}");
    }
}

/// What `adit check` says of a file, as JSON.
fn told(path: &str) -> serde_json::Value {
    let (_, stdout, stderr) = run(&["check", "--output", "json", path]);
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"))
}

/// A CA of this name, and a CRL by it that is due so many days from now.
fn authority(name: &str, days: i64) -> (rcgen::Certificate, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let root = params.self_signed(&key).unwrap();
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    let due = match u32::try_from(days) {
        Ok(days) => now + day * days,
        Err(_) => now - day * u32::try_from(-days).unwrap(),
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: (now - day * 90).into(),
        next_update: due.into(),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap();
    (root, list.pem().unwrap())
}

#[test]
fn crls_and_roots_that_cannot_do_their_work_are_said() {
    let world = World::new();
    let db = Backend::start("db");
    let own = std::fs::read_to_string(world.file("ca.crt")).unwrap();
    let (root, current) = authority("other", 60);
    let (stale_root, stale) = authority("stale", -1);
    let (_, forged) = authority("other", 60);
    let with = |roots: &str, crl: &str, more: &str| {
        world.write("ca.crt", roots);
        world.write("list.crl", crl);
        let good = world.server("s", 8443, db.addr, "allow: { all: true }");
        let crls = format!(", crls: [{}]{more} }},", world.file("list.crl").display());
        let path = world.write("f.yaml", &format!("services:\n{}", good.replacen(" },", &crls, 1)));
        let json = told(path.to_str().unwrap());
        let all = |kind: &str| json[kind].as_array().unwrap().clone();
        (all("errors"), all("warnings"))
    };
    let says = |found: &[serde_json::Value], what: &str| {
        found.len() == 1
            && found[0]["message"].as_str().unwrap().contains(what)
            && found[0]["line"] == 2
            && found[0]["key"] == "services[0].credential"
    };
    let both = own.clone() + &root.pem();
    let (faults, warnings) = with(&both, &current, "");
    assert!(faults.is_empty() && warnings.is_empty(), "{faults:?} {warnings:?}");
    let (faults, warnings) = with(&own, &current, "");
    let by_nobody = "the CRL of CN=other is not from a known root";
    assert!(faults.is_empty() && says(&warnings, by_nobody), "{faults:?} {warnings:?}");
    let (faults, _) = with(&both, &forged, "");
    assert!(
        says(&faults, "is not signed with the key of the authority of that name"),
        "{faults:?}"
    );
    let of_stale = own.clone() + &stale_root.pem();
    let (faults, _) = with(&of_stale, &stale, "");
    assert!(says(&faults, "the CRL of CN=stale is out of date"), "{faults:?}");
    let (faults, warnings) = with(&of_stale, &stale, ", crl: { stale: warn }");
    assert!(faults.is_empty() && says(&warnings, "is out of date"), "{faults:?} {warnings:?}");
    // Roots: leaves of somebody else's authority, beside one, and one that is its own.
    let leaf = std::fs::read_to_string(world.file("server.crt")).unwrap();
    let (faults, _) = with(&leaf, &current, "");
    assert!(says(&faults, "contains no CA certificate"), "{faults:?}");
    let (faults, warnings) = with(&(both.clone() + &leaf), &current, "");
    assert!(
        faults.is_empty() && says(&warnings, "is a leaf certificate, not a CA"),
        "{warnings:?}"
    );
}

#[test]
fn an_own_certificate_that_ends_soon_is_warned_of() {
    let world = World::new();
    let db = Backend::start("db");
    let path = world.write(
        "f.yaml",
        &format!("services:\n{}", world.server("s", 8443, db.addr, "allow: { all: true }")),
    );
    let path = path.to_str().unwrap();
    let lasts = |days: u32| {
        let day = std::time::Duration::from_secs(86_400);
        let now = std::time::SystemTime::now();
        world.sign_lasting("server", now - day * 60, now + day * days);
        run(&["check", "--strict", path])
    };
    let (code, said, stderr) = lasts(30);
    assert!(code == 0, "{said}{stderr}");
    let (code, said, stderr) = lasts(1);
    assert!(code == 1, "{said}{stderr}");
    assert!(said.contains("own certificate CN=server expires soon: it is valid until"), "{said}");
    assert!(said.contains("renew it"), "{said}");
}

#[test]
fn every_missing_file_is_listed_in_its_place_beside_other_faults() {
    let world = World::new();
    let path = world.write(
        "f.yaml",
        "services:\n- name: s\n  mode: server\n  listen: localhost:1\n  target: localhost:2\n  \
         credential:\n    certificate: /none.crt\n    privateKey: /none.key\n    roots: \
         /none.ca\n    \
         crls: [/none.crl]\n  allow: { al: true }\n- name: k\n  mode: client\n  listen: \
         localhost:3\n  \
         target: h:4\n  credential: { keystore: /none.p12, passwordFile: /none.pw }\n",
    );
    let json = told(path.to_str().unwrap());
    let found: Vec<_> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (fault["line"].as_u64().unwrap(), fault["key"].as_str().unwrap().to_owned()))
        .collect();
    let credential = "services[0].credential.";
    for (line, key) in [
        (7, format!("{credential}certificate")),
        (8, format!("{credential}privateKey")),
        (9, format!("{credential}roots")),
        (10, format!("{credential}crls[0]")),
        (11, "services[0].allow.al".to_owned()),
        (16, "services[1].credential.keystore".to_owned()),
        (16, "services[1].credential.passwordFile".to_owned()),
    ] {
        assert!(found.contains(&(line, key.clone())), "{line} {key}: {json:#}");
    }
    assert_eq!(found.len(), 7, "{json:#}");
    let none = told(world.file("none.yaml").to_str().unwrap());
    assert!(none["errors"][0]["message"].as_str().unwrap().contains("none.yaml"), "{none}");
}

#[test]
fn places_that_collide_are_refused_however_they_are_written() {
    let world = World::new();
    let db = Backend::start("db");
    let one = world.server("one", 8443, db.addr, "allow: { all: true }");
    let two = world.server("two", 8444, db.addr, "allow: { all: true }");
    for (a, b) in [(":8443", "0.0.0.0:8443"), ("localhost:8443", "127.0.0.1:8443")] {
        let two = two.replacen("127.0.0.1:8444", b, 1);
        let text = format!("services:\n{}{two}", one.replacen("127.0.0.1:8443", a, 1));
        let path = world.write("f.yaml", &text);
        refused(&["check", path.to_str().unwrap()], &format!("one already listens at {a}"));
    }
    let path = world.write("f.yaml", &format!("services:\n{one}status: {{ listen: ':8443' }}\n"));
    refused(&["check", path.to_str().unwrap()], "3:");
}

#[test]
fn a_policy_that_never_matches_is_warned_of() {
    let world = World::new();
    let db = Backend::start("db");
    let policy = |spec: &str| {
        world.write("p.yaml", &format!("metadata: {{ name: p, namespace: shop }}\nspec: {spec}\n"));
        let allow = format!("allow: {{ policies: {} }}", world.file("p.yaml").display());
        let text = format!("services:\n{}", world.server("s", 8443, db.addr, &allow));
        let path = world.write("f.yaml", &text);
        run(&["check", path.to_str().unwrap()])
    };
    let principal = "from: [{ source: { principals: [td/ns/a/sa/b] } }]";
    for (spec, says) in [
        (format!("{{ rules: [{{ {principal} }}] }}"), ""),
        (
            format!(
                "{{ rules: [{{ {principal}, to: [{{ operation: {{ ports: ['8443'] }} }}] }}] }}"
            ),
            "",
        ),
        (
            format!("{{ rules: [{{ {principal}, to: [{{ operation: {{ ports: ['80'] }} }}] }}] }}"),
            "p.yaml:2) never matches: it names other ports than 8443",
        ),
        (
            format!("{{ selector: {{ matchLabels: {{ a: b }} }}, rules: [{{ {principal} }}] }}"),
            "has a selector",
        ),
        (
            format!(
                "{{ rules: [] }}\n---\nmetadata: {{ name: q }}\n\
                 spec: {{ rules: [{{ {principal} }}] }}"
            ),
            "has no rules",
        ),
    ] {
        let (code, stdout, stderr) = policy(&spec);
        assert!(code == 0, "{spec}: {stdout}{stderr}");
        assert!(stdout.contains("warning: ") != says.is_empty(), "{spec}: {stdout}");
        assert!(stdout.contains(says), "{spec}: {stdout}");
    }
}

#[test]
fn each_kind_of_file_is_known_and_the_wrong_command_names_the_right_one() {
    let world = World::new();
    let db = Backend::start("db");
    let good = world.server("s", 8443, db.addr, "allow: { all: true }");
    let services = world.write("services.yaml", &format!("services:\n{good}"));
    let mesh = world.write("mesh.yaml", MESH);
    let ca = world.write(
        "ca.yaml",
        "trustDomain: td\nlisten: 127.0.0.1:15012\ndir: /var/lib/adit/ca\n\
         serverNames: [ca.example]\n\
         attestors: { svid: true }\n",
    );
    let [services, mesh, ca] = [&services, &mesh, &ca].map(|path| path.to_str().unwrap());
    let (code, stdout, stderr) = run(&["check", ca]);
    assert!(code == 0 && stdout.contains("a CA of trust domain td"), "{stdout}{stderr}");
    world.write("ca.yaml", "trustDomain: td\nserverNames: [a]\nlisten: nowhere\n");
    refused(&["check", ca], "ca.yaml:3:");
    for (command, file, says) in [
        (&["run"][..], services, "`adit proxy -c"),
        (&["run"], ca, "`adit ca serve -c"),
        (&["proxy"], mesh, "`adit run -c"),
        (&["proxy"], ca, "`adit ca serve -c"),
        (&["ca", "serve"], services, "`adit proxy -c"),
        (&["ca", "serve"], mesh, "`adit run -c"),
    ] {
        let (code, stdout, stderr) = run(&[command, &["-c", file]].concat());
        assert!(code != 0 && stderr.contains(says), "{command:?}: {stdout}{stderr}");
    }
    let netns = MESH.replace("addresses", "netns: there-is-none, addresses");
    world.write("mesh.yaml", &netns);
    let (_, stdout, _) = run(&["check", mesh]);
    assert!(stdout.contains("mesh.yaml:5:") && stdout.contains("does not exist"), "{stdout}");
}

#[test]
fn no_secret_of_a_file_is_printed() {
    let world = World::new();
    let db = Backend::start("db");
    let good = format!("services:\n{}", world.server("s", 8443, db.addr, "allow: { all: true }"));
    let of = |credential: &str| good.replacen("credential: {", credential, 1);
    let block = |line: &str| {
        format!(
            "services:\n- name: s\n  mode: client\n  listen: localhost:1\n  target: 'db:443'\n  \
             credential:\n    {line}\n"
        )
    };
    for (text, position) in [
        (of("credential: { password: hunter2,"), ":2:"),
        (of("credential: { pasword: hunter2, hunter: 2,"), ":2:"),
        (of("credential: { keystore: { of: hunter2 },"), ":2:"),
        (block("password: hunter2 # hunter2"), ":7:5"),
        (block("{ password: hunter2 }"), ":7:7"),
        (block("- hunter2"), ":7:5"),
        (block("hunter2"), ":7:5"),
        (block("roots: /none.ca\n  allow: hunter2"), ":8:10"),
        (block("keystore: /none.p12\n    passwordFile: hunter2"), ":8:19"),
        (block("pkcs11: { module: /none.so, pinFile: hunter2 }"), ":7:42"),
        // Files of somebody else.
        ("hunter2\n".into(), ":1:1"),
        ("root:hunter2:19000::\ndaemon:*:19000:0:99999:7:::\n".into(), ":"),
        ("root:hunter2:19000:0:99999:7:::\n".into(), ":1:1"),
        ("hunter: 1\nhunter2\n".into(), ":"),
        ("hunter: hunter2\n".into(), ":1:1"),
        ("hunter: [ hunter2\n".into(), ":"),
    ] {
        let path = world.write("f.yaml", &text);
        let path = path.to_str().unwrap();
        for words in [vec!["check", path], vec!["check", "--json", path]] {
            let (code, stdout, stderr) = run(&words);
            let said = stdout + &stderr;
            assert_eq!(code, 3, "{words:?} {text}: {said}");
            assert!(!said.contains("hunter2"), "{words:?} {text}: {said}");
            let is_for_people = words == ["check", path];
            assert!(!is_for_people || said.contains(&format!("f.yaml{position}")), "{said}");
        }
    }
}

/// A password in place of the path of its file: the key is named instead.
#[test]
fn a_password_where_its_file_belongs_is_not_printed() {
    let world = World::new();
    for (key, credential) in [
        ("passwordFile", "keystore: /none.p12, passwordFile: hunter2"),
        ("pinFile", "certificate: /none.crt, pkcs11: { module: /none.so, pinFile: hunter2 }"),
    ] {
        let path = world.write(
            "f.yaml",
            &format!(
                "services:\n- {{ name: c, mode: client, listen: 'localhost:1', target: 'db:443', \
                 credential: {{ {credential} }} }}\n"
            ),
        );
        let path = path.to_str().unwrap();
        let (_, stdout, stderr) = run(&["check", path]);
        let (told, says) =
            (stdout + &stderr, format!("the file that `{key}` names cannot be read"));
        assert!(told.contains(&says) && !told.contains("hunter2"), "{told}");
        let what = if key == "pinFile" { "PIN" } else { "password" };
        let advice = format!("`{key}` takes a path: write the {what} into a file and name that");
        assert!(told.contains(&advice), "{told}");
        let (code, stdout, stderr) = run(&["proxy", "-c", path]);
        let told = stdout + &stderr;
        assert!(code != 0 && !told.contains("hunter2"), "{told}");
    }
}

/// A key for the password itself, which there is not.
#[test]
fn a_key_of_a_password_is_answered_with_the_key_of_its_file() {
    let world = World::new();
    for (credential, says) in [
        (
            "keystore: /none.p12, password: hunter2",
            "`passwordFile` takes a path: write the secret into a file and name that",
        ),
        (
            "certificate: /none.crt, pkcs11: { module: /none.so, pin: hunter2 }",
            "`pinFile` takes a path: write the secret into a file and name that",
        ),
    ] {
        let path = world.write(
            "f.yaml",
            &format!(
                "services:\n- {{ name: c, mode: client, listen: 'localhost:1', target: 'db:443', \
                 credential: {{ {credential} }} }}\n"
            ),
        );
        let (code, stdout, stderr) = run(&["check", path.to_str().unwrap()]);
        let told = stdout + &stderr;
        assert!(code == 3 && told.contains(says) && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn no_password_of_a_forward_proxy_is_printed() {
    let world = World::new();
    for url in ["https://bob:S3cretPw@p:3128", "bob:S3cretPw@p", "http://bob:S3cretPw@p/x"] {
        let path = world.write(
            "f.yaml",
            &format!(
                "services:\n- {{ name: c, mode: client, listen: 'localhost:1', target: 'db:443', \
                 authentication: disabled, proxy: '{url}' }}\n"
            ),
        );
        let path = path.to_str().unwrap();
        let flag = ["client", "--listen", "localhost:1", "--target", "db:443", "--proxy", url];
        for words in
            [&["check", path][..], &["check", "--json", path], &["proxy", "-c", path], &flag]
        {
            let (code, stdout, stderr) = run(words);
            let said = stdout + &stderr;
            assert!(code != 0 && said.contains("…@p"), "{words:?}: {said}");
            assert!(!said.contains("S3cretPw"), "{words:?}: {said}");
        }
    }
}
