//! What is counted of the stream that the control plane pushes the mesh over.

use prometheus::{Error, IntCounterVec, Registry};

use super::register::counters;

/// The stream of the control plane.
#[derive(Debug)]
pub struct XdsMetrics {
    terminations: IntCounterVec,
    messages: IntCounterVec,
    bytes: IntCounterVec,
}

/// Why a stream ended, in ztunnel's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Termination {
    /// There was no connection.
    ConnectionError,
    /// The control plane refused something.
    Error,
    /// The connection ended.
    Reconnect,
    /// The control plane ended the stream.
    Complete,
}

impl XdsMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, Error> {
        let [terminations, messages, bytes] = [
            (
                "istio_xds_connection_terminations_total",
                "Streams from the control plane that ended, by reason (unstable)",
                "reason",
            ),
            (
                "istio_xds_message_total",
                "Responses from the control plane, by type of resource (unstable)",
                "url",
            ),
            (
                "istio_xds_message_bytes_total",
                "Bytes of resources received from the control plane (unstable)",
                "url",
            ),
        ]
        .map(|(name, help, label)| counters(registry, name, help, &[label]));
        Ok(Self { terminations: terminations?, messages: messages?, bytes: bytes? })
    }

    /// A stream, or the attempt to open one, came to its end.
    pub fn terminated(&self, why: Termination) {
        let reason = match why {
            Termination::ConnectionError => "ConnectionError",
            Termination::Error => "Error",
            Termination::Reconnect => "Reconnect",
            Termination::Complete => "Complete",
        };
        self.terminations.with_label_values(&[reason]).inc();
    }

    /// A response came, with resources of this type and of this length. The caller bounds the
    /// number of types.
    pub fn received(&self, type_url: &str, bytes: u64) {
        self.messages.with_label_values(&[type_url]).inc();
        self.bytes.with_label_values(&[type_url]).inc_by(bytes);
    }
}
