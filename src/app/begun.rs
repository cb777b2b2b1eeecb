//! What a process says when it starts and when it stops.

/// How a process that drains is ended.
pub(super) const ENDS: &str = "SIGTERM or Ctrl-C (SIGINT) drains, another Ctrl-C cuts";

/// Why a process stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// `POST /_shutdown`.
    Asked,
    /// Another process has taken over; its process ID, if that can be seen.
    Succeeded(Option<u32>),
}

impl Stop {
    /// What is said of it.
    pub(super) fn words(self) -> String {
        let (why, cuts) = match self {
            Self::Terminate => ("SIGTERM", "SIGINT (Ctrl-C)"),
            Self::Interrupt => ("SIGINT", "another SIGINT (Ctrl-C)"),
            Self::Asked => ("POST /_shutdown", "SIGINT (Ctrl-C)"),
            Self::Succeeded(_) => ("another process has taken over", "SIGINT (Ctrl-C)"),
        };
        format!("{why}: stopping: no new connections, draining; {cuts} cuts what is left")
    }
}
