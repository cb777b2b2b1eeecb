//! Builds with and without the optional parts: `adit version` lists what is there, and what is not
//! there is refused by name. Holds for every choice of cargo features.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs;

#[path = "../support/process.rs"]
mod process;
#[path = "../support/wait.rs"]
mod wait;

use process::{command, refused};

const FEATURES: [(&str, bool); 6] = [
    ("acme", cfg!(feature = "acme")),
    ("bench", cfg!(feature = "bench")),
    ("demo", cfg!(feature = "demo")),
    ("pkcs11", cfg!(feature = "pkcs11")),
    ("rego", cfg!(feature = "rego")),
    ("sockmap", cfg!(feature = "sockmap")),
];

const SERVER: &str = "server --listen 127.0.0.1:0 --target 127.0.0.1:1 --cacert /ca.pem";

#[test]
fn the_version_lists_the_parts_that_are_built_in() {
    let said = command("version").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let listed = said.split("Features:\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let built: Vec<&str> = FEATURES.iter().filter(|(_, built)| *built).map(|(f, _)| *f).collect();
    assert_eq!(listed, built.join(","), "{said}");
}

#[test]
fn what_is_not_built_in_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let service = "mode: server, listen: 'localhost:0', target: 'unix:/x', allow: { all: true }";
    for (name, text) in [
        ("p.rego", "package p\nallow = true\n".to_owned()),
        (
            "acme.yaml",
            format!(
                "services: [{{ name: a, {service}, credential: {{ roots: /r, acme: {{ name: \
                 db.example.org, agreeToTerms: true, storage: /s }} }} }}]\n"
            ),
        ),
        (
            "mesh.yaml",
            "trustDomain: td\nca: { embedded: { dir: /ca } }\ncapture: { rules: nft, appHop: \
             sockmap }\nworkloads: [{ name: a, addresses: [10.0.0.1], netns: a }]\n"
                .to_owned(),
        ),
    ] {
        fs::write(at(name), text).unwrap();
    }
    let scenarios = [
        (
            "acme",
            format!(
                "{SERVER} --allow-all --auto-acme-cert db.example.org --auto-acme-email a@b.c \
                 --auto-acme-agree-to-tos --auto-acme-storage /s"
            ),
            "--auto-acme-cert: this adit was built without",
        ),
        ("acme", format!("check --no-files {}", at("acme.yaml")), "acme: this adit was built"),
        ("bench", "bench serve --listen 127.0.0.1:0".to_owned(), "adit bench: this adit was"),
        ("demo", "demo --json".to_owned(), "adit demo: this adit was"),
        (
            "pkcs11",
            format!("{SERVER} --allow-all --cert /c.pem --pkcs11-module /m.so"),
            "--pkcs11-module: this adit was built without",
        ),
        (
            "rego",
            format!(
                "{SERVER} --cert /c.pem --key /k.pem --allow-query data.p.allow --allow-policy {}",
                at("p.rego")
            ),
            "p.rego: this adit was built without",
        ),
        ("sockmap", format!("check {}", at("mesh.yaml")), "appHop: this adit was built without"),
    ];
    for (feature, args, says) in scenarios {
        if FEATURES.contains(&(feature, true)) {
            continue;
        }
        let (code, said) = refused(&args);
        // `adit check` says what to do in a line of its own.
        let named = format!("without the cargo feature \"{feature}\"");
        let is_named = said.contains(says) && said.contains(&named);
        assert!(code > 0 && is_named && said.contains("install the full build"), "{args}: {said}");
    }
}
