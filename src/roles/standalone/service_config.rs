//! A service as configured: plain values.

use std::time::Duration;

use super::{ForwardProxy, ProxyMode, Role, TlsOptions, status::HttpUrl, targets::Balance};
use crate::{
    credentials::store::CredentialsConfig,
    hbone::PeerExpiry,
    identity::SpiffeId,
    net::{Address, CloseReason},
    policy::Access,
    relay,
};

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
            (_, "TLS_FAILURE" | "IDENTITY_ERROR" | "CERT_REVOKED" | "DENY") => !self.handshake_errs,
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
    pub credentials: CredentialsConfig,
    /// The access rules: allowed clients (server) or accepted targets (client; without any, only
    /// the name is checked).
    pub access: Access,
    /// What the handshake offers and demands.
    pub tls: TlsOptions,
    /// Whether the kernel makes the records where it can.
    pub kernel_tls: bool,
    /// The name that the server's certificate must have, and SNI (client).
    pub server_name: Option<String>,
    /// Timeout for handshake, access rules and dial together.
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
    /// What happens to a connection whose peer's certificate has expired.
    pub peer_expiry: PeerExpiry,
    /// What is not logged.
    pub quiet: Quiet,
    /// What the status endpoint asks for through the target; 200 means that it is well (server).
    pub target_status: Option<HttpUrl>,
}

impl ServiceConfig {
    /// What is legal and probably not meant: the roots of the system are for servers of the web,
    /// and these CAs give a name such as a DNS name to whoever has it.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        let public = match &self.credentials {
            CredentialsConfig::Files { roots, pins, .. } => roots.is_none() && pins.is_empty(),
            CredentialsConfig::WorkloadApi { .. } => false,
        };
        (self.role == Role::Server && self.tls.authenticate && public).then_some(
            "no roots are given, so a client with an allowed name is accepted from any public CA \
             in the system's store: set roots (--cacert) to the CA of your clients",
        )
    }
}

/// Settings of HBONE, beside those of [`super::ServiceConfig`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hbone {
    /// Where the target's node takes tunnels; port 15008 of the target if not given (client).
    pub gateway: Option<Address>,
    /// Who must be there (client).
    pub expect: Vec<SpiffeId>,
    /// Host names in `:authority` that are this service's, beside those that it knows (server).
    pub authorities: Vec<String>,
}

/// How targets are asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthConfig {
    /// How often, give or take a tenth.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// By HTTP; else a TCP connect is enough.
    pub http: Option<HttpCheck>,
}

/// `/PATH` on the target, or `http://HOST:PORT/PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    /// Where, if not the target.
    pub at: Option<Address>,
    /// The path with its query.
    pub path: String,
}
