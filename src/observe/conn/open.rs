//! The record of one connection. Dropping it writes the access-log line and the metrics,
//! so a cancelled task, an early `?` and a clean end are each recorded exactly once.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::{ConnMetadata, ConnectionEvent, LiveConn, TunnelId};
use crate::{
    net::{CloseReason, Direction, PeerAddr},
    observe::Telemetry,
};

/// One accepted connection; the reason starts as [`CloseReason::Dropped`].
#[derive(Debug)]
pub struct OpenConn {
    live: Arc<LiveConn>,
    telemetry: Telemetry,
    reason: CloseReason,
    unlogged: bool,
}

impl OpenConn {
    /// Enters the connection into the live table.
    #[must_use]
    pub fn open(telemetry: &Telemetry, direction: Direction, peer: PeerAddr) -> Self {
        let live = telemetry.live.add(direction, peer.0);
        Self { live, telemetry: telemetry.clone(), reason: CloseReason::Dropped, unlogged: false }
    }

    /// The shared half: counters, and the signal that ends the connection from outside.
    #[must_use]
    pub fn live(&self) -> &Arc<LiveConn> {
        &self.live
    }

    /// Amends what is known.
    pub fn metadata<T>(&self, look: impl FnOnce(&mut ConnMetadata) -> T) -> T {
        self.live.metadata(look)
    }

    /// Counts the connection as opened: its ends are known and it may flow.
    pub fn count_opened(&self) {
        self.count();
        self.telemetry.live.events().publish(|| ConnectionEvent::opened(self.live.view()));
    }

    fn count(&self) {
        let series = self.metadata(|facts| {
            self.telemetry.metrics.connections.series(self.live.direction, facts)
        });
        series.opened();
        let _ = self.live.series.set(series);
    }

    /// Leaves no line in the access log; metrics count it all the same.
    pub fn leave_unlogged(&mut self) {
        self.unlogged = true;
    }

    /// Says how it ended; the record is written when `self` goes out of scope, here.
    pub fn close(mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// The same with what went wrong.
    pub fn fail(mut self, reason: CloseReason, error: impl ToString) {
        self.reason = reason;
        self.metadata(|f| f.error = Some(bounded(&error.to_string()).into()));
    }
}

/// Texts may quote a peer: one line, printable, at most 512 characters. No format of ours is left
/// to see to that: JSON lets C1 controls pass.
fn bounded(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        self.telemetry.live.remove(self.live.id);
        if self.live.series.get().is_none() {
            self.count();
        }
        self.live.flush_bytes();
        self.metadata(|facts| {
            self.telemetry.metrics.connections.closed(self.live.direction, facts, self.reason);
            self.telemetry.live.events().publish(|| {
                let view = self.live.view_of(facts);
                ConnectionEvent::ended(view, self.reason, facts.error.as_deref())
            });
            let peer = self.live.peer.0.ip();
            let shares = &self.telemetry.live.log_shares;
            let left_out = match facts.error {
                _ if self.unlogged => None,
                Some(_) => shares.take(self.reason, peer, Instant::now()),
                None => Some(0),
            };
            if let Some(left_out) = left_out {
                write_line(&self.live, facts, self.reason, left_out);
            }
        });
    }
}

/// `left_out`: how many lines of this reason and peer there were no room for before this one.
fn write_line(live: &LiveConn, f: &ConnMetadata, reason: CloseReason, left_out: u64) {
    let addr = |a: &Option<SocketAddr>| a.map(tracing::field::display);
    let src_addr = tracing::field::display(live.peer.0);
    let direction = live.direction.as_str();
    let (src, dst) = (f.src.names.as_ref(), f.dst.names.as_ref());
    let src_id = f.src.id.as_ref().map(tracing::field::display);
    let dst_id = f.dst.id.as_ref().map(tracing::field::display);
    // Istio's meaning: sent is what the *local* side sent. Outbound: app → network.
    let (sent, received) = live.sent_and_received();
    let hbone_addr = f.hbone_addr.as_deref().map(bounded);
    let subject = f.subject.as_ref().map(|s| bounded(s));
    let duration = format!("{}ms", live.opened.elapsed().as_millis());
    let event = match f.error {
        None => "connection complete",
        Some(_) if reason.is_denial() => "connection denied",
        Some(_) => "connection failed",
    };
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "access",
                {
                src.addr = %src_addr,
                src.workload = src.map(|n| &*n.workload),
                src.namespace = src.map(|n| &*n.namespace),
                src.identity = src_id,
                dst.addr = addr(&f.dst_addr),
                dst.hbone_addr = hbone_addr.as_deref(),
                dst.service = f.service.as_deref(),
                dst.workload = dst.map(|n| &*n.workload),
                dst.namespace = dst.map(|n| &*n.namespace),
                dst.identity = dst_id,
                peer.subject = subject.as_deref(),
                direction,
                protocol = f.protocol,
                tunnel = f.tunnel.map(TunnelId::get),
                policy = f.policy.as_deref(),
                dry_run = f.dry_run.as_deref(),
                bytes_sent = sent,
                bytes_recv = received,
                duration = duration.as_str(),
                tls.version = f.tls.as_ref().map(|t| t.version),
                tls.group = f.tls.as_ref().map(|t| t.group),
                tls.cipher = f.tls.as_ref().map(|t| t.cipher),
                tls.path = f.tls.as_ref().and_then(|t| t.path).map(super::TlsPath::as_str),
                reason = reason.as_str(),
                error = f.error.as_deref(),
                lines_left_out = (left_out > 0).then_some(left_out),
                },
                "{event}"
            )
        };
    }
    if f.error.is_some() {
        line!(error);
    } else {
        line!(info);
    }
}

#[cfg(test)]
mod tests {
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
                let line = text
                    .lines()
                    .find(|l| l.starts_with(&format!("istio_tcp_{what}_bytes_total{{")));
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
}
