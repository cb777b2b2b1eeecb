//! Why a tunnel stream could not be opened.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use super::{HBONE_PORT, Termination};
use crate::{
    net::CloseReason,
    tls::{TlsError, TunnelPort},
};

/// One failure is given to all who waited for the same dial, so it is cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP refused, unreachable, or no socket.
    #[error("TCP connect to {addr}: {source}")]
    Tcp {
        /// The address that was dialled.
        addr: SocketAddr,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// TCP took too long.
    #[error("TCP connect to {addr}: no answer within {within:?}{}", policy_hint(*addr))]
    TcpTimeout {
        /// The address that was dialled.
        addr: SocketAddr,
        /// The limit.
        within: Duration,
    },
    /// The TLS handshake failed.
    #[error("TLS with {addr}: {source}{}", node_hint(*port))]
    Tls {
        /// The address that was dialled.
        addr: SocketAddr,
        /// Where tunnels arrive there.
        port: TunnelPort,
        /// Why.
        source: TlsError,
    },
    /// The TLS handshake failed with whom the gateway there led to.
    #[error("TLS through {addr}: {source}")]
    TlsThrough {
        /// The gateway.
        addr: SocketAddr,
        /// Why.
        source: TlsError,
    },
    /// The handshake succeeded, and its peer may not be there all the same.
    #[error("tunnel to {addr}: {}", .condemned.why)]
    Terminated {
        /// The address that was dialled.
        addr: SocketAddr,
        /// Why not.
        condemned: Termination,
    },
    /// HTTP/2 failed: preface, SETTINGS, a reset, a connection that ended.
    #[error("HTTP/2 with {addr}: {why}")]
    Http2 {
        /// The address that was dialled.
        addr: SocketAddr,
        /// Why.
        why: String,
        /// Whether another tunnel may be tried, as the peer did not process the request.
        retry: bool,
    },
    /// The peer answered CONNECT with something other than 200.
    #[error("http status: {status} from {addr}{}", hint(*status))]
    Refused {
        /// The address that was asked.
        addr: SocketAddr,
        /// The status.
        status: u16,
    },
}

/// In the words that operators of Istio search for.
fn policy_hint(addr: SocketAddr) -> &'static str {
    match addr.port() {
        HBONE_PORT => "; connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008",
        _ => "",
    }
}

fn node_hint(port: TunnelPort) -> &'static str {
    match port {
        TunnelPort::Hbone => "",
        TunnelPort::Original => {
            " (a tunnel to an application's port needs ADIT_ORIGINAL_PORT_HBONE=accept on that \
             node)"
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => " (the destination's policy does not allow this identity)",
        403 => " (a tunnel to an application's port leads to that application only)",
        400 => " (the destination does not own this address, or the request is malformed)",
        503 => " (the destination knows no such workload, or its application does not answer)",
        _ => "",
    }
}

impl ConnectError {
    pub(super) fn broken(addr: SocketAddr, why: impl ToString) -> Self {
        Self::Http2 { addr, why: why.to_string(), retry: false }
    }

    pub(super) fn stalled(addr: SocketAddr, what: &str, within: Duration) -> Self {
        Self::Http2 { addr, why: format!("no {what} within {within:?}"), retry: false }
    }

    /// Whether TLS was begun and came to nothing.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::TlsThrough { .. } | Self::Terminated { .. })
    }

    /// What operators see for this failure.
    #[must_use]
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Tcp { .. } => CloseReason::ConnectFailure,
            Self::TcpTimeout { addr, .. } if addr.port() == HBONE_PORT => CloseReason::HboneTimeout,
            Self::TcpTimeout { .. } => CloseReason::ConnectTimeout,
            Self::Tls { source, .. } | Self::TlsThrough { source, .. } => source.close_reason(),
            Self::Terminated { condemned, .. } => condemned.reason,
            Self::Http2 { .. } => CloseReason::TunnelFailure,
            Self::Refused { status: 401, .. } => CloseReason::PeerDenied,
            Self::Refused { .. } => CloseReason::PeerRefused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_a_network_policy_may_drop_is_told_from_others() {
        for (port, reason, flags) in [
            (15008, CloseReason::HboneTimeout, "NETWORK_POLICY"),
            (443, CloseReason::ConnectTimeout, "CONNECT"),
        ] {
            let addr = ([10, 0, 0, 1], port).into();
            let error = ConnectError::TcpTimeout { addr, within: Duration::from_secs(10) };
            assert_eq!(error.close_reason(), reason, "{port}");
            assert_eq!(reason.response_flags(), flags);
            assert_eq!(error.to_string().contains("NetworkPolicy"), port == 15008, "{error}");
        }
    }
}
