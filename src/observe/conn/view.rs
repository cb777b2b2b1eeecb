//! A connection as programs read it: in `/connections` and in events. The names of the fields are
//! an interface: one may come, none goes or changes.

use std::net::SocketAddr;

use serde::Serialize;

use super::{PeerInfo, TlsFacts, TunnelId};

/// One connection, open or just ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Unique in this process.
    pub id: u64,
    /// `outbound` or `inbound`, seen from the local pod.
    pub direction: &'static str,
    /// The TCP peer.
    pub src: SocketAddr,
    /// Next hop (outbound), or the address that it came in on.
    pub dst: Option<SocketAddr>,
    /// The CONNECT authority.
    pub hbone_addr: Option<String>,
    /// The tunnel that it shares, if it goes through one; unique in this process.
    pub tunnel: Option<TunnelId>,
    /// `HBONE` or `TCP` on the wire.
    pub protocol: Option<&'static str>,
    /// The service that was called, by hostname.
    pub service: Option<String>,
    /// Who calls.
    pub source: EndView,
    /// Who is called.
    pub destination: EndView,
    /// The mutual TLS that protects it; none for plaintext.
    pub tls: Option<TlsFacts>,
    /// The policy that decided, `namespace/name rule N`.
    pub policy: Option<String>,
    /// The uid of the workload on this node whose connection it is.
    pub local_workload: Option<String>,
    /// What the local side has received, in bytes.
    pub bytes_received: u64,
    /// What it has sent, in bytes.
    pub bytes_sent: u64,
    /// Since it was accepted.
    pub age_seconds: f64,
}

/// One end of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct EndView {
    /// The workload's name, if the mesh knows it.
    pub workload: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its SPIFFE ID, as proven by mutual TLS.
    pub identity: Option<String>,
}

impl EndView {
    pub(super) fn of(peer_info: &PeerInfo) -> Self {
        Self {
            workload: peer_info.names.as_ref().map(|names| names.workload.to_string()),
            namespace: peer_info.names.as_ref().map(|names| names.namespace.to_string()),
            identity: peer_info.id.as_ref().map(ToString::to_string),
        }
    }
}
