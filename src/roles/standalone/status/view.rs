//! `/_status` as programs read it. The names of the fields are an interface: one may come, none
//! goes or changes.

use std::net::SocketAddr;

use serde::Serialize;

use crate::{observe::ConfigView, tls::record::ChoicesView};

/// What `/_status` answers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StatusView {
    /// Whether all is well; the status code says the same.
    pub(super) ok: bool,
    /// `ok` or `critical`.
    pub(super) status: &'static str,
    /// Where the first service listens.
    pub(super) listen_address: String,
    /// Its first target.
    pub(super) forward_address: String,
    /// Whether the targets of all services answer.
    pub(super) backend_ok: bool,
    /// `ok` or `critical`.
    pub(super) backend_status: &'static str,
    /// Which do not, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend_error: Option<String>,
    /// Now, RFC 3339.
    pub(super) time: String,
    /// When certificates were last obtained.
    pub(super) last_reload: Option<String>,
    /// Whether what is on disk is what runs.
    pub(super) config: ConfigView,
    /// Of this machine.
    pub(super) hostname: String,
    /// What the process does.
    pub(super) message: &'static str,
    /// The version.
    pub(super) revision: &'static str,
    /// What it was built with.
    pub(super) compiler: &'static str,
    /// Who seals TLS records.
    pub(super) tls: ChoicesView,
    /// Each service.
    pub(super) services: Vec<ServiceView>,
    /// Who still holds connections, while the process stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) draining: Option<DrainingView>,
}

/// One service.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServiceView {
    pub(super) name: String,
    /// `server` or `client`.
    pub(super) role: &'static str,
    pub(super) listen_address: String,
    pub(super) targets: Vec<String>,
    pub(super) backend_ok: bool,
    pub(super) backend_error: Option<String>,
    /// Whether it takes new connections.
    pub(super) accepting: bool,
    pub(super) open_connections: usize,
    pub(super) certificate: CertificateView,
    /// Why the last reload was refused.
    pub(super) last_reload_error: Option<String>,
}

/// What a service shows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CertificateView {
    pub(super) subject: Option<String>,
    pub(super) spiffe_id: Option<String>,
    /// Where it is from.
    pub(super) source: String,
    pub(super) not_after: Option<String>,
    /// Whether it has ended, so that peers refuse it.
    pub(super) expired: bool,
    /// Why nothing of it may be used any more, if so.
    pub(super) taken_back: Option<String>,
}

/// Who still holds connections, the oldest first.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DrainingView {
    pub(super) since: String,
    pub(super) connections: usize,
    /// How many of them are left out below.
    pub(super) not_listed: usize,
    pub(super) held_by: Vec<HolderView>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HolderView {
    pub(super) service: Option<String>,
    pub(super) peer: SocketAddr,
    /// The SPIFFE ID of the peer.
    pub(super) identity: Option<String>,
    pub(super) to: Option<SocketAddr>,
    pub(super) age_seconds: f64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
}

#[cfg(test)]
mod tests;
