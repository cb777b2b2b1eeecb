//! mTLS in front of one service that knows nothing of it, on a host without a mesh.
//!
//! A [`Service`] listens at one address and connects to its targets: as a *server* it takes TLS
//! and hands plaintext on, as a *client* it takes plaintext and speaks TLS. One connection:
//!
//! 1. `accept` takes it, on the worker whose socket it came to, or gives it to one that has clearly
//!    less to do ([`crate::proxy::listener`]). A client's caller has waited for its place among
//!    `max_connections` by then; a server's gets one only after it has proven who it is.
//! 2. `connection` opens its record ([`crate::observe::conn::OpenConn`]), makes the handshake
//!    ([`crate::tls::secured`]), reads who is there ([`crate::identity::PeerCert`]), enters the peer
//!    among those that are checked against current trust (`trusted_peers`) and asks (`admission`)
//!    [`crate::policy::AccessControl`]. A server dials its target only then; a client
//!    dials first and then asks who answered (both in `reach`).
//! 3. [`crate::relay::run`] carries the bytes until both sides have ended; the TLS side is a
//!    [`crate::relay::SecuredRemote`], or `relay/kernel.rs` where the kernel can make the records
//!    (`--kernel-tls auto`).
//! 4. `outcome` says how it ended; dropping the record writes its line and counts it.
//!
//! With [`Hbone`] the wire is that of an ambient mesh instead (`hbone`).
//!
//! What an operator sees of it, over HTTP, is [`status`]; listening sockets that come from
//! elsewhere (systemd, a process before this one) are [`crate::net::Sockets`].
//! Several targets are tried in order ([`Targets`]) and checked (`health`).
//! A client may reach them through a forward proxy (`forward_proxy`).
//! Which settings do not go together is written in one place, `validate`.
//!
//! Certificates, keys and roots are those of a [`crate::credentials::store`]; the challenges of an
//! ACME CA are answered by the service, and before there is one by `challenges`.
//! Not here: flags and files ([`crate::config`]), signals and threads ([`crate::app`]).

mod accept;
mod admission;
mod challenges;
mod connection;
mod forward_proxy;
mod hbone;
mod health;
mod local_identity;
mod outcome;
mod probe;
pub mod proxy_protocol;
mod reach;
mod recheck;
mod revalidate;
mod role;
mod service;
mod service_config;
mod starttls;
pub mod status;
mod successor;
mod targets;
mod timer;
mod tls;
mod trusted_peers;
mod validate;

pub(crate) use challenges::{answer_challenges, first_acme_certificate};
pub use forward_proxy::ForwardProxy;
pub use proxy_protocol::ProxyMode;
pub use role::Role;
pub use service::{Counts, Service};
pub use service_config::{Hbone, HealthConfig, HttpCheck, Quiet, ServiceConfig};
pub use starttls::StartTls;
pub use targets::{Balance, Target, Targets};
pub use timer::Timer;
pub use tls::{Alpn, CipherGroup, TlsOptions};
pub use validate::{ConfigSyntax, MOST_TARGETS, Violation, one_credential};
