//! The lines of the access log.

use std::{net::SocketAddr, sync::Arc};

use super::{ConnMetadata, LiveConn, Names, PeerInfo, TlsPath, TunnelId};
use crate::net::CloseReason;

/// One of them.
pub(super) enum Line {
    /// A connection whose ends are known.
    Opened {
        /// It is told for what policies decided of it.
        decision: bool,
    },
    /// One that has ended.
    Ended(Ended),
}

/// How a connection ended.
pub(super) struct Ended {
    pub(super) reason: CloseReason,
    /// How many lines of this reason and peer there were no room for before this one.
    pub(super) left_out: u64,
    pub(super) event: Event,
}

/// What a line says of it, and how loud.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// Nothing went wrong.
    Complete,
    /// Something did, or it was cut: in Istio's words.
    CompleteWithError,
    /// It was not established: in Istio's words.
    NeverOpened,
    /// In ours.
    Denied,
    /// In ours.
    Failed,
}

impl Event {
    fn message(self) -> &'static str {
        match self {
            Self::Complete | Self::CompleteWithError => "connection complete",
            Self::NeverOpened | Self::Failed => "connection failed",
            Self::Denied => "connection denied",
        }
    }
}

/// Texts may quote a peer: one line, printable, at most 512 characters. No format of ours is left
/// to see to that: JSON lets C1 controls pass.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the mesh calls one end. A service outside of a mesh has no namespace, and its name stands
/// in `dst.service`.
fn mesh_names(of: &PeerInfo) -> Option<&Arc<Names>> {
    of.names.as_ref().filter(|names| !names.namespace.is_empty())
}

impl Line {
    /// Writes it; the names of the fields and their order are Istio's, what is ours comes after.
    pub(super) fn write(&self, live: &LiveConn, f: &ConnMetadata) {
        let addr = |a: &Option<SocketAddr>| a.map(tracing::field::display);
        let src_addr = tracing::field::display(live.peer.0);
        let direction = live.direction.as_str();
        let [src, dst] = [&f.src, &f.dst].map(mesh_names);
        let src_id = f.src.id.as_ref().map(tracing::field::display);
        let dst_id = f.dst.id.as_ref().map(tracing::field::display);
        let ended = match self {
            Self::Opened { .. } => None,
            Self::Ended(ended) => Some(ended),
        };
        // Istio's meaning: sent is what the *local* side sent. Outbound: app → network.
        let moved = ended.map(|_| live.sent_and_received());
        let hbone_addr = f.hbone_addr.as_deref().map(bounded);
        let subject = f.subject.as_ref().map(|s| bounded(s));
        let duration = ended.map(|_| format!("{}ms", live.opened.elapsed().as_millis()));
        let left_out = ended.map_or(0, |ended| ended.left_out);
        macro_rules! line {
            ($level:ident, $message:expr) => {
                tracing::$level!(
                    target: "access",
                    {
                    src.addr = %src_addr,
                    src.workload = src.map(|n| &*n.pod),
                    src.namespace = src.map(|n| &*n.namespace),
                    src.identity = src_id,
                    src.cluster = src.and_then(|n| n.cluster.as_deref()),
                    dst.addr = addr(&f.dst_addr),
                    dst.hbone_addr = hbone_addr.as_deref(),
                    dst.service = f.service.as_deref(),
                    dst.workload = dst.map(|n| &*n.pod),
                    dst.namespace = dst.map(|n| &*n.namespace),
                    dst.identity = dst_id,
                    dst.cluster = dst.and_then(|n| n.cluster.as_deref()),
                    direction,
                    bytes_sent = moved.map(|(sent, _)| sent),
                    bytes_recv = moved.map(|(_, received)| received),
                    duration = duration.as_deref(),
                    error = f.error.as_deref(),
                    reason = ended.map(|ended| ended.reason.as_str()),
                    protocol = f.protocol,
                    tunnel = f.tunnel.map(TunnelId::get),
                    policy = f.policy.as_deref(),
                    dry_run = f.dry_run.as_deref(),
                    peer.subject = subject.as_deref(),
                    tls.version = f.tls.as_ref().map(|t| t.version),
                    tls.group = f.tls.as_ref().map(|t| t.group),
                    tls.cipher = f.tls.as_ref().map(|t| t.cipher),
                    tls.path = f.tls.as_ref().and_then(|t| t.path).map(TlsPath::as_str),
                    lines_left_out = (left_out > 0).then_some(left_out),
                    },
                    "{}", $message
                )
            };
        }
        match self {
            Self::Opened { decision: true } => line!(info, "connection opened"),
            Self::Opened { decision: false } => line!(debug, "connection opened"),
            Self::Ended(Ended { event, .. }) => match event {
                Event::Complete => line!(info, event.message()),
                Event::NeverOpened => line!(warn, event.message()),
                Event::CompleteWithError | Event::Denied | Event::Failed => {
                    line!(error, event.message());
                }
            },
        }
    }
}
