//! The record of one connection. Dropping it writes the access-log line and the metrics,
//! so a cancelled task, an early `?` and a clean end are each recorded exactly once.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use super::{ConnMetadata, ConnectionEvent, LiveConn, TunnelId};
use crate::{
    net::{CloseReason, Direction, Outcome, PeerAddr},
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

    /// How the connection really ended: of one that was cut from outside, that is why. Whoever cut
    /// it left the words in its record.
    #[must_use]
    pub fn settled(&self, outcome: Outcome) -> Outcome {
        match self.live.was_cut() {
            Some(reason) => (reason, None),
            None => outcome,
        }
    }

    /// Writes the record: how the connection ended, as [`OpenConn::settled`] has it.
    pub fn finish(self, outcome: Outcome) {
        match self.settled(outcome) {
            (reason, Some(error)) => self.fail(reason, error),
            (reason, None) => self.close(reason),
        }
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
mod tests;
