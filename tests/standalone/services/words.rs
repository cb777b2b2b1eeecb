//! Errors in people's words: what is wrong, and with whose certificate.

use super::world::{Backend, Proxy, World, free_port, run};

#[test]
fn a_handshake_that_fails_says_why_and_whom_the_certificate_names() {
    let (world, other) = (World::new(), World::new());
    // They trust us, and we do not trust their CA, which has the name of ours.
    other.write("ca.crt", &std::fs::read_to_string(world.file("ca.crt")).unwrap());
    other.sign("app", "app", Some("spiffe://other.td/ns/a/sa/b"));
    other.sign("plain", "somebody", None);
    let (db, port) = (Backend::start("db"), free_port());
    let mut adit = Proxy::start(&world, &world.server("s", port, db.addr, "allow: { all: true }"));
    for (name, named) in [("app", "spiffe://other.td/ns/a/sa/b"), ("plain", "CN=somebody")] {
        assert!(other.call(name, port).is_err());
        let line = adit.wait("does not match its key");
        assert!(line.contains("(BadSignature)"), "{line}");
        assert!(line.contains("its certificate names") && line.contains(named), "{line}");
    }
    // Not TLS at all.
    let mut plain = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    adit.wait("bytes that are not TLS");
}

/// `--key "$(cat key)"`, a key in YAML where its path belongs: the errors have not a byte of it.
#[test]
fn the_text_of_a_key_in_the_place_of_its_path_is_not_printed() {
    let world = World::new();
    let key = std::fs::read_to_string(world.file("server.key")).unwrap();
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let at = |name: &str| world.file(name).display().to_string();
    let (crt, ca) = (at("server.crt"), at("ca.crt"));
    let secret = |told: &str| {
        let pieces = body.as_bytes().windows(16).filter_map(|part| std::str::from_utf8(part).ok());
        pieces.into_iter().any(|part| told.contains(part))
    };
    let mut seen = Vec::new();
    for text in [key.as_str(), body.as_str(), &key.replace('\n', " ")] {
        let serve = ["server", "--listen", "localhost:0", "--target", "localhost:1", "--allow-all"];
        let serve = |more: &[&str]| run(&[&serve[..], more].concat());
        seen.push(serve(&["--cert", &crt, "--cacert", &ca, "--key", text]));
        seen.push(serve(&["--keystore", text, "--cacert", &ca]));
        seen.push(serve(&["--cert", &crt, "--key", &at("server.key"), "--cacert", text]));
        seen.push(run(&["check", text]));
        seen.push(run(&["run", "-c", text]));
        seen.push(run(&["proxy", "-c", text]));
        seen.push(run(&["import", "stunnel", text]));
        seen.push(run(&["svid", "lint", text]));
        seen.push(run(&["ca", "show", "--dir", text]));
        let quoted = serde_json::Value::from(text);
        let credential = |certificate: &str, key: &str, roots: &str| {
            format!(
                "credential: {{ certificate: {certificate}, privateKey: {key}, roots: {roots} }}"
            )
        };
        let (quoted, listen) = (quoted.to_string(), "'localhost:1'".to_owned());
        let good = credential(&crt, &at("server.key"), &ca);
        for (listen, credential, allow) in [
            (&listen, credential(&crt, &quoted, &ca), "{ all: true }".to_owned()),
            (&listen, credential(&quoted, &at("server.key"), &ca), "{ all: true }".into()),
            (&listen, credential(&crt, &at("server.key"), &quoted), "{ all: true }".into()),
            (&listen, format!("credential: {{ keystore: {quoted} }}"), "{ all: true }".into()),
            (&quoted, good.clone(), "{ all: true }".into()),
            (&listen, good.clone(), format!("{{ all: {quoted} }}")),
            (&listen, good.clone(), format!("{{ ids: [{quoted}] }}")),
            (&listen, good.clone(), format!("{{ policies: {quoted} }}")),
            (&listen, good.clone(), format!("{{ {quoted}: [a] }}")),
        ] {
            let yaml = format!(
                "services:\n- {{ name: s, mode: server, listen: {listen}, target: 'localhost:2', \
                 {credential}, allow: {allow} }}\n"
            );
            let file = world.write("f.yaml", &yaml);
            seen.push(run(&["check", file.to_str().unwrap()]));
            seen.push(run(&["proxy", "-c", file.to_str().unwrap()]));
        }
    }
    // A block, rightly and wrongly indented, and a key alone.
    for yaml in [
        format!(
            "services:\n- credential:\n    privateKey: |\n      {}",
            key.replace('\n', "\n      ")
        ),
        format!("services:\n- credential:\n    privateKey: {key}"),
        key.clone(),
    ] {
        let file = world.write("f.yaml", &yaml);
        seen.push(run(&["check", file.to_str().unwrap()]));
        seen.push(run(&["check", "--json", file.to_str().unwrap()]));
    }
    for (code, stdout, stderr) in seen {
        assert!(code != 0, "{stdout} {stderr}");
        assert!(!secret(&stdout) && !secret(&stderr), "{stdout} {stderr}");
    }
}
