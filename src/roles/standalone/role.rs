//! Which side of a service speaks TLS.

/// Which side speaks TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// TLS comes in, plaintext goes to the target.
    Server,
    /// Plaintext comes in, TLS goes to the target.
    Client,
}

impl Role {
    /// The word on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}
