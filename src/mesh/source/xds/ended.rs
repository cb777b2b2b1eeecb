//! How a stream ends, and what that is called.

use std::time::Duration;

use tonic::{Code, Status};

use crate::observe::metrics::Termination;

/// How a stream, or the attempt to have one, came to its end.
pub(super) enum Ended {
    /// Nobody applies anything any more.
    Unwanted,
    NotConnected(Status),
    Stream {
        /// For how long it was one.
        lasted: Duration,
        /// `None` where the control plane ended it as one does.
        status: Option<Status>,
    },
}

pub(super) fn silent() -> Status {
    Status::deadline_exceeded("no answer to the first requests within 30 s")
}

/// As the dashboards have it: `Reconnect` is what happens to every stream sooner or later.
pub(super) fn termination(status: Option<&Status>) -> Termination {
    match status.map(Status::code) {
        None => Termination::Complete,
        Some(Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable) => {
            Termination::Reconnect
        }
        Some(_) => Termination::Error,
    }
}
