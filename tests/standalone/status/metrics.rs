//! Metrics, asked for and pushed.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

use serde_json::Value;

use super::{
    helpers::{ask, connect, free_port, server, start, until_status},
    pki::Pki,
};
use crate::{
    backends::Backend,
    wait::{LIMIT, wait_for},
};

fn value(all: &Value, name: &str) -> f64 {
    let found = all.as_array().unwrap().iter().find(|m| m["metric"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {all:#}"))["value"].as_f64().unwrap()
}

#[test]
fn what_is_counted_is_told_in_json_and_for_prometheus() {
    let (pki, echo, listen, at) = (Pki::new(), Backend::echo(), free_port(), free_port());
    let url = format!("http://{at}");
    let more = ["--status", &url, "--metrics-prefix", "tun-nel"];
    let _adit = start(&server(&pki, listen, echo.addr, &more));
    until_status(at, "listening");
    let open = connect(&pki, listen).unwrap();
    drop(connect(&pki, listen).unwrap());
    // Somebody without a certificate.
    let _ = exchange_plain(listen);
    let json =
        || -> Value { serde_json::from_str(&ask(at, "GET /_metrics/json").unwrap().1).unwrap() };
    let all = wait_for("three are counted, two have ended", LIMIT, || {
        let all = json();
        let counted = value(&all, "tun-nel.accept.total") == 3.0;
        let ended = value(&all, "tun-nel.conn.open") == 1.0;
        (counted && ended && value(&all, "tun-nel.conn.lifetime.count") == 2.0).then_some(all)
    });
    assert!(!all[0]["hostname"].as_str().unwrap().is_empty() && all[0]["timestamp"].is_u64());
    for (name, count) in [
        ("conn.open", 1.0),
        ("conn.timeout", 0.0),
        ("accept.success", 2.0),
        ("accept.error", 1.0),
        ("accept.timeout", 0.0),
        ("conn.handshake.count", 2.0),
    ] {
        assert_eq!(value(&all, &format!("tun-nel.{name}")), count, "{name}: {all:#}");
    }
    let handshake = |what: &str| value(&all, &format!("tun-nel.conn.handshake.{what}"));
    let (slow, min, max) = (handshake("99-percentile"), handshake("min"), handshake("max"));
    assert!(slow >= min * 0.9 && slow <= max, "{min} {slow} {max}");
    assert_eq!(ask(at, "GET /_metrics").unwrap().1.as_bytes()[0], b'[');

    let text = ask(at, "GET /_metrics/prometheus").unwrap().1;
    for line in [
        "tun_nel_conn_open 1",
        "tun_nel_accept_success 2",
        "tun_nel_conn_handshake_count 2",
        "tun_nel_conn_handshake_timer_count 2",
        "istio_tcp_sockets_open{reporter=\"destination\"} 1",
        "adit_handshake_failures_total{close_reason=\"tls_failure\",reporter=\"destination\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for start in ["istio_tcp_connections_opened_total{", "adit_svid_not_after_seconds{"] {
        assert!(text.lines().any(|l| l.starts_with(start)), "{start} is not in\n{text}");
    }
    assert!(text.contains("source_principal=\"spiffe://test/app\""), "{text}");
    let same = ask(at, "GET /_metrics?format=prometheus").unwrap().1;
    assert!(same.contains("tun_nel_conn_open 1\n"));
    drop(open);
}

fn exchange_plain(to: std::net::SocketAddr) -> Option<(u16, String)> {
    ask(to, "GET /")
}

#[test]
fn graphite_and_a_url_are_told_without_being_asked() {
    let (pki, echo, listen) = (Pki::new(), Backend::echo(), free_port());
    let graphite = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = graphite.local_addr().unwrap().to_string();
    let url = format!("http://{}/push", web.local_addr().unwrap());
    let more = ["--metrics-graphite", &to, "--metrics-url", &url, "--metrics-interval", "200ms"];
    let _adit = start(&server(&pki, listen, echo.addr, &more));
    let mut lines = String::new();
    graphite.accept().unwrap().0.read_to_string(&mut lines).unwrap();
    let line = lines.lines().find(|l| l.starts_with("ghostunnel.conn.open.count 0 ")).unwrap();
    assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
    // Once, and after an answer that is no success once more.
    for code in ["500 Oh", "200 OK"] {
        let mut stream = BufReader::new(web.accept().unwrap().0);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let at = head.len();
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
            if let Some(n) = head[at..].strip_prefix("content-length: ") {
                length = n.trim().parse().unwrap();
            }
        }
        assert!(head.starts_with("POST /push HTTP/1.1\r\n"), "{head}");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let all: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value(&all, "ghostunnel.accept.total"), 0.0);
        let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).unwrap();
    }
    _adit.logs("metrics push works again");
}
