//! Peers that say nothing cost a limited time, and nobody else's.

use std::time::Instant;

use crate::{
    lab::Lab,
    mesh::{MESH, PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("stalls::a_client_that_never_speaks_tls_is_let_go", silent_client),
    ("stalls::a_server_that_never_answers_delays_nobody_else", silent_server),
];

const TIMEOUTS: &str = "timeouts: { connect: 3s, tls: 3s, http2: 3s, response: 3s }\n";

fn silent_client() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&format!("{TIMEOUTS}{}", allow(&["web"])));
    let mut silent: Vec<_> =
        (0..50).map(|_| lab.connect("db", "127.0.0.1:15008").unwrap()).collect();
    assert!(lab.ask("web", "10.96.0.10:80").is_ok(), "others are served meanwhile");
    for socket in &mut silent {
        assert!(matches!(crate::wait::read_once(socket, &mut [0; 16]), Ok(0) | Err(_)));
    }
    lab.wait("all let go", || lab.records("inbound", "tls_timeout").len() == 50);
}

/// spy is on another node, and there accepts and stays silent.
fn silent_server() {
    let mesh = allow(&["web"])
        .replace("netns: spy }", "node: node-b }")
        .replace("netns: web }", "netns: web, node: node-a }")
        .replace("netns: db,", "netns: db, node: node-a,");
    assert_ne!(mesh, MESH);
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&format!("node: node-a\n{TIMEOUTS}{mesh}"));
    let listener = lab.listen("spy", 15008);
    let waiting: Vec<_> = (0..20).map(|_| lab.connect("web", "10.77.0.3:80").unwrap()).collect();
    let started = Instant::now();
    for _ in 0..20 {
        assert!(lab.ask("web", "10.96.0.10:80").is_ok());
    }
    let served = started.elapsed();
    assert!(
        lab.records("outbound", "tls_timeout").is_empty(),
        "after {served:?}: too slow to tell"
    );
    lab.wait("all refused", || lab.records("outbound", "tls_timeout").len() == 20);
    drop((waiting, listener));
}
