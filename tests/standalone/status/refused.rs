//! A reload that was refused: what is on disk is not what runs, and that is said.

use std::{fs, time::Duration};

use serde_json::Value;

use super::{
    helpers::{ask, free_port, server, start, status_of, until_status},
    pki::Pki,
};
use crate::{
    backends::Backend,
    wait::{LIMIT, wait_for},
};

/// What is said of the configuration once it is in this state; all else is well.
fn config(at: std::net::SocketAddr, state: &str) -> Value {
    let (code, status) = wait_for(state, LIMIT, || {
        status_of(at).filter(|(_, status)| status["config"]["state"] == state)
    });
    assert_eq!((code, &status["ok"]), (200, &true.into()), "{status:#}");
    let (_, metrics) = ask(at, "GET /_metrics/prometheus").unwrap();
    let count = u8::from(state == "refused");
    assert!(metrics.contains(&format!("\nadit_reload_refused {count}\n")), "{metrics}");
    status["config"].clone()
}

#[test]
fn a_certificate_and_policies_that_were_not_taken() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: { name: a }\nspec: { action: DENY, rules: [{ from: [{ source: \
                  { ipBlocks: ['192.0.2.0/24'] } }] }] }\n";
    let policies = pki.path("policies.yaml");
    fs::write(&policies, policy).unwrap();
    let flag = policies.display().to_string();
    let more = ["--status", &url, "--allow-authorization-policy", &flag];
    let _adit = start(&server(&pki, listen, echo.addr, &more));
    until_status(at, "listening");
    assert_eq!(config(at, "current"), serde_json::json!({ "state": "current" }));

    let file = pki.path("server.crt");
    let good = fs::read(&file).unwrap();
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
    let first = config(at, "refused");
    assert!(first["since"].as_str().unwrap().ends_with('Z'), "{first}");
    let error = first["error"].as_str().unwrap();
    assert!(error.contains("service server: ") && error.contains("server.crt"), "{error}");

    // Another fault counts from the first on.
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(&file, "").unwrap();
    let second = wait_for("the second", LIMIT, || {
        let (_, status) = status_of(at)?;
        Some(status["config"].clone()).filter(|config| config["error"] != first["error"])
    });
    assert_eq!(second["since"], first["since"]);
    fs::write(&file, good).unwrap();
    config(at, "current");

    fs::write(&policies, "kind: Nonsense\n").unwrap();
    let error = config(at, "refused")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("policies.yaml"), "{error}");
    fs::write(&policies, policy).unwrap();
    config(at, "current");
}

#[test]
fn a_file_of_services_that_was_not_taken() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let good = format!(
        "status: {{ listen: \"http://{at}\" }}\nservices:\n- name: db\n  mode: server\n  \
         listen: \"{listen}\"\n  target: \"{}\"\n  \
         credential: {{ certificate: {}, privateKey: {}, roots: {} }}\n  \
         allow: {{ all: true }}\n",
        echo.addr,
        pki.path("server.crt").display(),
        pki.path("server.key").display(),
        pki.path("ca.pem").display(),
    );
    let file = pki.path("services.yaml");
    fs::write(&file, &good).unwrap();
    let args = ["proxy", "-c", file.to_str().unwrap()].map(str::to_owned);
    let _adit = start(&args);
    until_status(at, "listening");
    config(at, "current");
    for (bad, says) in [
        (good.replace("mode: server", "mode: sever"), "sever"),
        (good.replace("server.crt", "none.crt"), "none.crt"),
    ] {
        fs::write(&file, bad).unwrap();
        let error = config(at, "refused")["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("the configuration: ") && error.contains(says), "{error}");
        fs::write(&file, &good).unwrap();
        config(at, "current");
    }
}
