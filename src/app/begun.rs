//! What a process says when it starts and when it stops.

use std::time::Duration;

/// How a process that drains is ended.
pub(super) const ENDS: &str =
    "SIGTERM or SIGINT (Ctrl-C) drains connections; SIGINT during the drain closes them at once";

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
            Self::Terminate => ("SIGTERM", "SIGINT"),
            Self::Interrupt => ("SIGINT", "SIGINT again"),
            Self::Asked => ("POST /_shutdown", "SIGINT"),
            Self::Quit => ("POST /quitquitquit", "SIGINT"),
            Self::Succeeded(_) => ("another process has taken over", "SIGINT"),
        };
        let connections = crate::identity::counted(connections, "connection");
        let grace = humantime::format_duration(grace);
        format!(
            "{why}: shutting down: draining {connections} (up to {grace}; {again} closes them now)"
        )
    }
}
