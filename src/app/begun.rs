//! What a process says when it starts and when it stops.

use std::time::Duration;

/// How a process that drains is ended.
pub(super) const ENDS: &str =
    "SIGTERM or Ctrl-C (SIGINT) drains connections; Ctrl-C during the drain closes them at once";

/// Why a process stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// `POST /_shutdown`.
    Asked,
    /// `POST /quitquitquit`.
    Quit,
    /// Another process has taken over; its process ID, if that can be seen.
    Succeeded(Option<u32>),
}

impl Stop {
    /// What is logged of it: that `connections` are drained, for as long as `grace`.
    pub(super) fn words(self, connections: usize, grace: Duration) -> String {
        let (why, again) = match self {
            Self::Terminate => ("SIGTERM", "Ctrl-C"),
            Self::Interrupt => ("SIGINT", "Ctrl-C again"),
            Self::Asked => ("POST /_shutdown", "Ctrl-C"),
            Self::Quit => ("POST /quitquitquit", "Ctrl-C"),
            Self::Succeeded(_) => ("another process has taken over", "Ctrl-C"),
        };
        let connections = crate::identity::counted(connections, "connection");
        let grace = humantime::format_duration(grace);
        format!(
            "{why}: shutting down: draining {connections} (up to {grace}; {again} to close now)"
        )
    }
}
