//! How a connection of a service ended, and what its record says of that.

use std::{io, sync::atomic::Ordering::Relaxed};

use tokio::time::Instant;

use super::Service;
use crate::{net::CloseReason, observe::conn::OpenConn, relay, tls::TlsError};

pub(super) use crate::net::Outcome;

/// Writes the record, if this service has a line for such an end, and counts.
pub(super) fn finish(service: &Service, mut conn: OpenConn, outcome: Outcome) {
    let outcome = conn.settled(outcome);
    let reason = outcome.0;
    if !service.config.quiet.logs(reason) {
        conn.leave_unlogged();
    }
    service.counts.lifetime.record(conn.live().opened.elapsed());
    use CloseReason::{HalfCloseTimeout, IdleTimeout, LifetimeReached};
    if matches!(reason, LifetimeReached | HalfCloseTimeout | IdleTimeout) {
        service.counts.ended_by_limit.fetch_add(1, Relaxed);
    }
    conn.finish(outcome);
}

/// Does what belongs to the beginning of a connection, until its connect timeout is over.
pub(super) async fn in_time<T>(
    service: &Service,
    deadline: Instant,
    what: impl Future<Output = Result<T, Outcome>>,
) -> Result<T, Outcome> {
    let late = |_| {
        let why = format!("not connected after {:?}", service.config.connect);
        Err((CloseReason::ConnectTimeout, Some(why)))
    };
    tokio::time::timeout_at(deadline, what).await.unwrap_or_else(late)
}

/// Carries for as long as a connection may last.
pub(super) async fn within_lifetime(
    service: &Service,
    carried: impl Future<Output = Outcome>,
) -> Outcome {
    match service.config.lifetime {
        None => carried.await,
        Some(limit) => match tokio::time::timeout(limit, Box::pin(carried)).await {
            Ok(outcome) => outcome,
            Err(_) => (CloseReason::LifetimeReached, None),
        },
    }
}

/// The outcome of a relay.
pub(super) fn ended(end: relay::End) -> Outcome {
    end.outcome("plain side", "TLS side")
}

/// We have nothing to show.
pub(super) fn own(why: String) -> Outcome {
    (CloseReason::NoIdentity, Some(why))
}

/// Counts what came to nothing in a handshake.
pub(super) fn counted(service: &Service, outcome: Outcome) -> Outcome {
    use CloseReason::{ConnectFailure, NoIdentity, Silent};
    if !matches!(outcome.0, ConnectFailure | NoIdentity | Silent) {
        service.handshake_failed(outcome.0);
    }
    outcome
}

/// A handshake that failed.
pub(super) fn failed(error: &TlsError) -> Outcome {
    let why = match error {
        TlsError::Silent => None,
        TlsError::SslRequest => {
            Some(format!("{error}; set --starttls postgres (starttls: postgres) to accept it"))
        }
        error => Some(error.to_string()),
    };
    (error.close_reason(), why)
}

/// What was agreed on cannot be used.
pub(super) fn lost(error: &io::Error) -> Outcome {
    (CloseReason::TlsFailure, Some(error.to_string()))
}
