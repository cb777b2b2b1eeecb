//! Two workers share what one listener takes.

use std::{collections::BTreeMap, io::Read, net::TcpStream};

use crate::{
    lab::Lab,
    mesh::{PODS, allow},
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("workers::who_has_clearly_less_is_handed_the_next_connections", hand_over)];

/// Each worker has a tunnel of its own, so the tunnel's address tells who carries a connection.
struct Carried<'a> {
    lab: &'a Lab,
    seen: Vec<u64>,
    by: BTreeMap<String, Vec<TcpStream>>,
}

impl Carried<'_> {
    /// One more connection: the tunnel that it went through.
    fn open(&mut self) -> String {
        let mut socket = self.lab.connect("web", "10.96.0.10:80").unwrap();
        socket.read_exact(&mut [0; 17]).unwrap();
        let shown = self.lab.admin("127.0.0.1:15000", "GET /connections");
        let shown: serde_json::Value =
            serde_json::from_str(shown.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let id = |conn: &serde_json::Value| conn["id"].as_u64().unwrap();
        let inbound = |conn: &&serde_json::Value| conn["direction"] == "inbound";
        let shown = shown.as_array().unwrap();
        let new = shown.iter().filter(inbound).find(|c| !self.seen.contains(&id(c))).unwrap();
        self.seen.push(id(new));
        let tunnel = new["src"].as_str().unwrap().to_owned();
        self.by.entry(tunnel.clone()).or_default().push(socket);
        tunnel
    }
}

/// By the kernel's hash alone, half of the last eight would go to the worker that has twelve
/// (and all to the other one time in 256).
fn hand_over() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    lab.start(&format!("workers: 2\n{}", allow(&["web"])));
    let mut carried = Carried { lab: &lab, seen: Vec::new(), by: BTreeMap::new() };
    let full = |by: &BTreeMap<_, Vec<_>>| {
        by.len() == 2
            && by.values().all(|held| held.len() >= 8)
            && by.values().any(|h| h.len() >= 12)
    };
    for _ in 0..60 {
        if full(&carried.by) {
            break;
        }
        carried.open();
    }
    assert!(full(&carried.by), "two workers take part");
    let held = |by: &BTreeMap<_, Vec<TcpStream>>| by.values().map(Vec::len).collect::<Vec<_>>();
    let (most, _) = carried.by.iter().max_by_key(|(_, held)| held.len()).unwrap();
    let most = most.clone();
    let others = carried.by.keys().find(|t| **t != most).unwrap().clone();
    carried.by.get_mut(&others).unwrap().clear();
    let left = carried.by[&most].len();
    lab.wait("the others are gone", || {
        lab.admin("127.0.0.1:15000", "GET /connections").matches("\"inbound\"").count() == left
    });
    for n in 0..(left - 1) / 2 {
        let went = carried.open();
        assert_eq!(went, others, "connection {n} behind {left}: {:?}", held(&carried.by));
    }
    let opened = carried.seen.len();
    drop(carried);
    assert!(lab.stop().success());
    let all = ["inbound", "outbound"].map(|d| {
        ["completed", "drained", "peer_reset", "app_reset"]
            .iter()
            .map(|reason| lab.records(d, reason).len())
            .sum::<usize>()
    });
    assert_eq!(all, [opened; 2], "one record per connection and end");
}
