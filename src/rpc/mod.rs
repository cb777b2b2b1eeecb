//! gRPC: the messages of the APIs that adit speaks, and the way to a Unix socket.
//!
//! The `.proto` files are ours, written from the specifications; field numbers are pinned by
//! tests against the bytes of other implementations. Not here: what a call means
//! ([`crate::credentials`]).

mod authority;
mod unix;

pub use authority::AnyAuthority;
pub use unix::{Listener, connect, listen};

/// The description of the Workload API, for reflection.
pub const WORKLOAD_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));

/// The SPIFFE Workload API.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod workload {
    tonic::include_proto!("_");

    /// Where generated code looks for what is in no package: two above.
    pub mod spiffe {
        /// The SPIFFE Broker API (incubating), which answers with messages of the Workload API.
        pub mod broker {
            tonic::include_proto!("spiffe.broker");
        }
    }
}

pub use workload::spiffe::broker;

/// The Istio CA API.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod istio_ca {
    tonic::include_proto!("istio.v1.auth");
}

/// The metadata of a refusal because of a ban: the SPIFFE ID that is banned.
pub const BANNED: &str = "adit-banned";

/// The metadata of a refusal of a join token that gives no SVID any more, or never did.
pub const JOIN_TOKEN_REFUSED: &str = "adit-join-token-refused";

/// Who is banned, beside the Istio CA API: adit's own.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod bans {
    tonic::include_proto!("adit.ca.v1");
}

/// The messages by which istio-cni announces pods.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod zds {
    tonic::include_proto!("istio.workload.zds");
}

/// Delta ADS.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Workloads and services, as istiod sends them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod address {
    tonic::include_proto!("istio.workload");
}

/// Authorization policies, as istiod sends them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod authorization {
    tonic::include_proto!("istio.security");
}
