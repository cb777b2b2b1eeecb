use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tracing_subscriber::{
    Layer, Registry,
    fmt::{MakeWriter, format::JsonFields as SpanFields, layer},
    layer::SubscriberExt,
};

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn of(&self, layer: impl Layer<Registry> + Send + Sync) -> String {
        tracing::subscriber::with_default(Registry::default().with(layer), say);
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn say() {
    let addr: SocketAddr = "10.244.0.33:42676".parse().unwrap();
    tracing::error!(
        target: "access",
        {
            src.addr = %addr,
            src.identity = %"spiffe://cluster.local/ns/a/sa/b",
            dst.hbone_addr = "10.244.0.29:9080",
            dst.service = "db.shop.svc",
            bytes_sent = 84_u64,
            duration = "15ms",
            error = "two words",
            absent = None::<u64>,
        },
        "connection complete"
    );
    tracing::info_span!("inbound", id = 7).in_scope(|| {
        tracing::info!(target: "adit::pods", error = %"a\nb\tc", ok = true, "pod\r\nreceived");
    });
}

/// As a bug report splits lines (at tabs, at least three parts), and as Kiali does (five).
fn split(line: &str) -> Vec<&str> {
    let parts: Vec<&str> = line.split('\t').collect();
    assert_eq!(parts.len(), 5, "{line:?}");
    let (time, micros) = (parts[0], parts[0].rsplit_once('.').unwrap().1);
    humantime::parse_rfc3339(time).unwrap();
    assert!(micros.len() == 7 && micros.ends_with('Z'), "{time}");
    parts[1..].to_vec()
}

#[test]
fn a_plain_line_has_five_parts_and_fields_that_split_at_blanks() {
    let lines = Lines::default();
    let text = lines.of(layer().event_format(Plain).with_writer(lines.clone()).with_ansi(false));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        split(lines[0]),
        [
            "error",
            "access",
            "connection complete",
            "src.addr=10.244.0.33:42676 src.identity=\"spiffe://cluster.local/ns/a/sa/b\" \
             dst.hbone_addr=10.244.0.29:9080 dst.service=\"db.shop.svc\" bytes_sent=84 \
             duration=\"15ms\" error=\"two words\"",
        ]
    );
    assert_eq!(
        split(lines[1]),
        ["info", "pods:inbound{id=7}", "pod  received", r#"error="a\nb\tc" ok=true"#]
    );
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_json_line_has_its_keys_in_order_and_numbers_as_numbers() {
    let lines = Lines::default();
    let json = layer().fmt_fields(SpanFields::new()).event_format(Json);
    let text = lines.of(json.with_writer(lines.clone()).with_ansi(false));
    let lines: Vec<&str> = text.lines().collect();
    let keys = |line: &str| {
        let places =
            |key: &str| line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key}"));
        let all = ["level", "time", "scope", "message"].map(places);
        assert!(all.is_sorted() && all[0] == 1, "{line}");
    };
    keys(lines[0]);
    keys(lines[1]);
    let parsed: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    let (access, pods) = (&parsed[0], &parsed[1]);
    assert_eq!(access["scope"], "access");
    assert_eq!(access["bytes_sent"], 84);
    assert_eq!(access["src.addr"], "10.244.0.33:42676");
    assert_eq!(access["message"], "connection complete");
    assert_eq!(access["msg"], access["message"], "what a bug report reads of warnings and errors");
    assert_eq!(access.get("absent"), None);
    assert_eq!((&pods["scope"], &pods["ok"]), (&json!("adit::pods"), &json!(true)));
    assert_eq!(pods["inbound"], json!({ "id": 7 }));
    assert_eq!(pods.get("msg"), None);
}
