use std::{
    io,
    sync::{Mutex, atomic::Ordering::Relaxed},
};

use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What is written while `work` runs, as [`crate::observe::logging`] has it.
fn logged(json: bool, work: impl FnOnce()) -> String {
    let lines = Lines::default();
    // Beside one alone, the thread that comes to a line first decides whether any has it.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let text = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false);
    if json {
        let json = text.json().flatten_event(true).finish();
        tracing::subscriber::with_default(json, work);
    } else {
        tracing::subscriber::with_default(text.finish(), work);
    }
    let written = lines.0.lock().unwrap().clone();
    String::from_utf8(written).unwrap()
}

fn open(telemetry: &Telemetry, direction: Direction) -> OpenConn {
    OpenConn::open(telemetry, direction, PeerAddr("10.0.0.9:999".parse().unwrap()))
}

/// Sent is what the local side sent; the metrics' words are the caller's and the callee's.
#[test]
fn line_and_metrics_say_who_has_sent_what_to_the_last_byte() {
    for (direction, towards_callee, back) in
        [(Direction::Outbound, 7, 11), (Direction::Inbound, 11, 7)]
    {
        let telemetry = Telemetry::new().unwrap();
        let counted = |what: &str| {
            let text = telemetry.metrics.render(&telemetry.live);
            let line =
                text.lines().find(|l| l.starts_with(&format!("istio_tcp_{what}_bytes_total{{")));
            line.unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
        };
        let line = logged(true, || {
            let conn = open(&telemetry, direction);
            conn.count_opened();
            conn.live().meter.up.fetch_add(3, Relaxed);
            conn.live().meter.down.fetch_add(5, Relaxed);
            assert_eq!(counted("received") + counted("sent"), 8, "while it is open");
            conn.live().meter.up.fetch_add(4, Relaxed);
            conn.live().meter.down.fetch_add(6, Relaxed);
            conn.close(CloseReason::Completed);
        });
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["bytes_sent"], &line["bytes_recv"]), (&7.into(), &11.into()));
        assert_eq!(counted("received"), towards_callee, "{direction:?}");
        assert_eq!(counted("sent"), back, "{direction:?}");
    }
}

#[test]
fn what_a_peer_says_stays_in_its_line() {
    let evil = "a\r\nlevel=INFO forged\u{1b}[2J\u{7}\u{9b}31m\u{0}b";
    for json in [false, true] {
        let telemetry = Telemetry::new().unwrap();
        let written = logged(json, || {
            let conn = open(&telemetry, Direction::Inbound);
            conn.metadata(|f| {
                f.hbone_addr = Some(evil.into());
                f.subject = Some(Arc::new(evil.into()));
            });
            conn.fail(CloseReason::BadConnect, format!("{evil}{}", "x".repeat(9000)));
        });
        let line = written.strip_suffix('\n').unwrap();
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(line.contains("forged"), "{line}");
        assert!(line.len() < 2000, "{} bytes", line.len());
    }
}

/// Each counts, and not each has its line; whoever ends in order always has.
#[test]
fn a_peer_that_is_refused_without_end_fills_no_log() {
    let telemetry = Telemetry::new().unwrap();
    let lines = logged(true, || {
        for _ in 0..3_000 {
            open(&telemetry, Direction::Inbound).fail(CloseReason::PolicyDenied, "no");
        }
        open(&telemetry, Direction::Inbound).close(CloseReason::Completed);
    });
    let denied = lines.lines().filter(|line| line.contains("policy_denied")).count();
    assert!((1_000..2_000).contains(&denied), "{denied} lines");
    assert_eq!(lines.lines().filter(|line| line.contains("\"completed\"")).count(), 1);
    let text = telemetry.metrics.render(&telemetry.live);
    let closed = text.lines().filter(|l| l.starts_with("istio_tcp_connections_closed_total{"));
    let counts = closed.map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    assert_eq!(counts.sum::<u64>(), 3_001);
    assert!(telemetry.live.all().is_empty(), "none is left in the table");
}
