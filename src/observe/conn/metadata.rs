//! What becomes known of a connection while it is carried.

use std::{net::SocketAddr, sync::Arc};

use serde::Serialize;

use super::TunnelId;
use crate::{identity::SpiffeId, net::PodName};

/// What a workload is called in records; made once and shared by all its connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names {
    /// What it is part of, such as a Deployment; else its own name. Metrics have it.
    pub workload: Arc<str>,
    /// Its own name, such as that of a pod. Logs have it.
    pub pod: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Canonical service: the `app` label, else the workload's name.
    pub app: Arc<str>,
    /// Its revision: the `version` label.
    pub version: Option<Arc<str>>,
    /// Its cluster.
    pub cluster: Option<Arc<str>>,
    /// The region in which it runs.
    pub region: Option<Arc<str>>,
    /// The zone there.
    pub zone: Option<Arc<str>>,
}

impl Names {
    /// One that is known by its name and namespace only.
    #[must_use]
    pub fn of(name: Arc<str>, namespace: Arc<str>) -> Self {
        let [workload, pod, app] = [0; 3].map(|_| Arc::clone(&name));
        Self {
            workload,
            pod,
            namespace,
            app,
            version: None,
            cluster: None,
            region: None,
            zone: None,
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    /// The workload, if the mesh knows it.
    pub names: Option<Arc<Names>>,
    /// Its SPIFFE ID, as proven by mutual TLS; `None` for plaintext.
    pub id: Option<SpiffeId>,
}

/// What the TLS handshake agreed on.
#[derive(Clone, Debug, Serialize)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// Key exchange group, such as `X25519MLKEM768`.
    pub group: &'static str,
    /// Cipher suite, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// Whether both sides had a certificate to show.
    pub mutual: bool,
    /// Where its records are made, if that may differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<TlsPath>,
}

/// Who makes and opens the records of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPath {
    /// We.
    Userspace,
    /// The kernel (kTLS); bytes are spliced.
    Kernel,
}

impl TlsPath {
    /// As logs have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        }
    }
}

/// Everything else a record says; filled in as it becomes known.
#[derive(Clone, Debug, Default)]
pub struct ConnMetadata {
    /// Who calls.
    pub src: PeerInfo,
    /// Who is called.
    pub dst: PeerInfo,
    /// Next hop (outbound), or the address the tunnel or captured connection came in on.
    pub dst_addr: Option<SocketAddr>,
    /// The CONNECT authority.
    pub hbone_addr: Option<Box<str>>,
    /// The service that was called, by hostname.
    pub service: Option<Arc<str>>,
    /// Its namespace.
    pub service_namespace: Option<Arc<str>>,
    /// The tunnel that it shares, if it goes through one.
    pub tunnel: Option<TunnelId>,
    /// The mutual TLS that protects it; `None` for plaintext.
    pub tls: Option<Arc<TlsFacts>>,
    /// The subject of the peer's certificate where that has no SPIFFE ID (RFC 4514). Eight bytes
    /// for the many connections that have none.
    pub subject: Option<Arc<String>>,
    /// The policy that decided, `namespace/name rule N`.
    pub policy: Option<Arc<str>>,
    /// What dry-run policies would have done.
    pub dry_run: Option<Box<str>>,
    /// What went wrong, with its causes.
    pub error: Option<Box<str>>,
    /// `HBONE` or `TCP` on the wire.
    pub protocol: Option<&'static str>,
    /// The pod of this node whose connection it is.
    pub pod: Option<Arc<PodName>>,
    /// Inbound the destination that policy was asked about (see [`super::LiveConn::flow`]),
    /// outbound where the application meant to go.
    pub flow_dst: Option<SocketAddr>,
}

impl ConnMetadata {
    /// The uid of the pod of this node whose connection it is.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&Arc<str>> {
        self.pod.as_ref().map(|pod| &pod.uid)
    }
}
