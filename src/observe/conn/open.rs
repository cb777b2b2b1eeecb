//! The record of one connection. Dropping it writes the access-log line and the metrics,
//! so a cancelled task, an early `?` and a clean end are each recorded exactly once.

use std::{sync::Arc, time::Instant};

use super::{
    ConnMetadata, ConnectionEvent, LiveConn,
    line::{Ended, Event, Line, bounded},
};
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
        let live = &self.telemetry.live;
        let decision = live.tells_decisions() && self.live.direction == Direction::Inbound;
        let told = decision || tracing::enabled!(target: "access", tracing::Level::DEBUG);
        if told && live.speaks_as_istio() {
            self.metadata(|facts| Line::Opened { decision }.write(&self.live, facts));
        }
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

    /// Ends the record with a reason and an error; it is written when `self` goes out of scope,
    /// here.
    pub fn fail(mut self, reason: CloseReason, error: impl ToString) {
        self.reason = reason;
        self.metadata(|f| f.error = Some(bounded(&error.to_string()).into()));
    }
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        self.telemetry.live.remove(self.live.id);
        let opened = self.live.series.get().is_some();
        if !opened {
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
                let speaks_as_istio = self.telemetry.live.speaks_as_istio();
                let (failed, denied) = (facts.error.is_some(), self.reason.is_denial());
                let event = match (failed, speaks_as_istio) {
                    (false, _) => Event::Complete,
                    (true, true) if opened => Event::CompleteWithError,
                    (true, true) => Event::NeverOpened,
                    (true, false) if denied => Event::Denied,
                    (true, false) => Event::Failed,
                };
                let ended = Ended { reason: self.reason, left_out, event };
                Line::Ended(ended).write(&self.live, facts);
            }
        });
    }
}

#[cfg(test)]
mod tests;
