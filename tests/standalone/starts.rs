//! What a start and a stop say.

use nix::sys::signal::Signal;

use crate::{
    backends::{Backend, dial},
    pki::Pki,
    process::{Adit, command},
};

/// Version, process, what it does, and how it is ended.
#[test]
fn a_start_says_what_runs_and_how_it_is_ended() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let file = format!(
        "services:\n- name: db\n  mode: server\n  listen: \"127.0.0.1:0\"\n  target: \"{0}\"\n  \
         credential: {{ certificate: {1}, privateKey: {2}, roots: {3} }}\n  \
         allow: {{ all: true }}\n\
         - name: out\n  mode: client\n  listen: \"127.0.0.2:0\"\n  target: \"{0}\"\n  \
         credential: {{ certificate: {1}, privateKey: {2}, roots: {3} }}\n",
        echo.addr,
        pki.at("server.crt"),
        pki.at("server.key"),
        pki.at("ca.pem")
    );
    pki.write("services.yaml", file);
    let yaml = pki.at("services.yaml");
    let (server, client) = (pki.server(echo.addr) + "--allow-all", pki.client(echo.addr));
    for (args, does) in [
        (server, format!("server: TLS on 127.0.0.1:0, plaintext to {}", echo.addr)),
        (client, format!("client: plaintext on 127.0.0.1:0, TLS to {}", echo.addr)),
        (
            format!("proxy -c {yaml}"),
            format!(
                "db: TLS on 127.0.0.1:0, plaintext to {0}; out: plaintext on 127.0.0.2:0, TLS to \
                 {0}; as {yaml} says",
                echo.addr
            ),
        ),
    ] {
        let adit = Adit::start(args);
        let (version, id) = (env!("CARGO_PKG_VERSION"), adit.id());
        let line = adit.logs("adit starts");
        for says in [
            "SIGTERM or SIGINT (Ctrl-C) drains connections; SIGINT during the drain closes them at \
             once",
            &format!("version=\"{version}\" pid={id}"),
            &does,
        ] {
            assert!(line.contains(says), "{says}: {line}");
        }
        assert_eq!(adit.stop(), 0);
    }
}

#[test]
fn a_stop_names_the_signal_that_came_and_the_one_that_cuts() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    for (signal, says) in [
        (Signal::SIGTERM, "SIGTERM: shutting down: draining … SIGINT closes them now"),
        (Signal::SIGINT, "SIGINT: shutting down: draining … SIGINT again closes them now"),
    ] {
        let adit = Adit::spawn(command(&pki.client(echo.addr)));
        let _open = dial(adit.addr);
        adit.signal(signal);
        adit.logs(says);
    }
}
