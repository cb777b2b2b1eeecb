//! A service as configured: plain values.

use std::time::Duration;

use super::{
    ForwardProxy, ProxyMode, TlsOptions, hbone::Hbone, health::HealthConfig, status::HttpUrl,
    targets::Balance,
};
use crate::{
    credentials::store::CredentialsConfig,
    hbone::PeerExpiry,
    net::{Address, CloseReason},
    policy::Access,
    relay,
};

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

/// What is not logged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quiet {
    /// Connections that ended in order.
    pub conns: bool,
    /// Connections that failed.
    pub conn_errs: bool,
    /// Handshakes that failed.
    pub handshake_errs: bool,
}

impl Quiet {
    /// Whether a connection that ended so leaves a line.
    pub(crate) fn logs(self, reason: CloseReason) -> bool {
        match (reason, reason.response_flags()) {
            (CloseReason::Completed | CloseReason::Silent, _) => !self.conns,
            (_, "TLS_FAILURE" | "IDENTITY_ERROR" | "DENY") => !self.handshake_errs,
            _ => !self.conn_errs,
        }
    }
}

/// A service as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceConfig {
    /// How logs and metrics call it.
    pub name: String,
    /// Which side speaks TLS.
    pub role: Role,
    /// Where it listens.
    pub listen: Address,
    /// Where it connects to, the first that works.
    pub targets: Vec<Address>,
    /// Which of them comes first.
    pub balance: Balance,
    /// What they are behind (client).
    pub proxy: Option<ForwardProxy>,
    /// Whether they are asked if they are well.
    pub health: Option<HealthConfig>,
    /// Plaintext may go to another host (server).
    pub unsafe_target: bool,
    /// Plaintext may come from other hosts (client).
    pub unsafe_listen: bool,
    /// What is shown and trusted.
    pub material: CredentialsConfig,
    /// Whom it admits (server), or wants to find (client; nothing named means the name alone).
    pub access: Access,
    /// What the handshake offers and demands.
    pub tls: TlsOptions,
    /// Whether the kernel makes the records where it can.
    pub kernel_tls: bool,
    /// The name that the server's certificate must have, and SNI (client).
    pub server_name: Option<String>,
    /// Handshake, access rules and dial together.
    pub connect: Duration,
    /// How long a connection may be silent.
    pub limits: relay::Limits,
    /// How long a connection may last after its handshake.
    pub lifetime: Option<Duration>,
    /// How many connections at once; more wait: to be accepted, or with a server behind their
    /// handshake.
    pub max_connections: Option<usize>,
    /// A PROXY header comes first on what is accepted.
    pub proxy_in: bool,
    /// A PROXY header goes first to the target.
    pub proxy_out: Option<ProxyMode>,
    /// HBONE on the wire instead of TLS alone.
    pub hbone: Option<Hbone>,
    /// What becomes of a connection whose peer's certificate has run out.
    pub peer_expiry: PeerExpiry,
    /// What is not logged.
    pub quiet: Quiet,
    /// What the status endpoint asks for through the target; 200 means that it is well (server).
    pub target_status: Option<HttpUrl>,
}
