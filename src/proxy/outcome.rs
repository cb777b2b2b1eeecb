//! How a connection ended, and what its record says of that.

use std::{io, net::SocketAddr};

use crate::{net::CloseReason, observe::conn::OpenConn};

/// Why a connection ended, and what went wrong if anything did.
pub type Outcome = (CloseReason, Option<String>);

/// TCP to `addr` did not come to be.
#[must_use]
pub fn connect_failed(addr: SocketAddr, error: &io::Error) -> Outcome {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::ConnectFailure,
    };
    (reason, Some(format!("TCP connect to {addr}: {error}")))
}

/// The caller went away before it had an answer.
#[must_use]
pub fn caller_gave_up() -> Outcome {
    (CloseReason::PeerReset, Some("the caller cancelled".to_owned()))
}

/// How a connection really ended: of one that was cut from outside, that is why. Whoever cut it
/// left the words in its record.
#[must_use]
pub fn settled(conn: &OpenConn, outcome: Outcome) -> Outcome {
    match conn.live().was_cut() {
        Some(reason) => (reason, None),
        None => outcome,
    }
}

/// Writes the record.
pub fn finish(conn: OpenConn, outcome: Outcome) {
    let (reason, error) = settled(&conn, outcome);
    match error {
        Some(error) => conn.fail(reason, error),
        None => conn.close(reason),
    }
}
