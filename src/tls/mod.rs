//! Mutual TLS 1.3 between X.509-SVIDs: who the peer is, proven on both sides.
//!
//! rustls does every handshake; it ends in a [`Session`], whose records are ours
//! ([`record`]). [`Acceptor`] and [`Connector`] are given an SVID and never ask for one. Every
//! handshake has a deadline; a peer's certificate is judged by [`crate::identity::verify_svid`]
//! only. [`secured`] is the same for peers that speak plain TLS 1.2 or 1.3 and hold any
//! certificate, judged by a [`PeerTrust`]; [`hello`] tells by ALPN who begins a protocol;
//! [`pkcs11`] signs with keys on tokens. Not here: where SVIDs come from ([`crate::credentials`])
//! and what runs inside ([`crate::hbone`]).

mod driver;
mod ends;
mod error;
mod handshake;
pub mod hello;
mod key_schedule;
mod naming;
mod peer;
pub mod pkcs11;
mod provider;
pub mod record;
mod roots;
pub mod secured;
mod session;
mod shown;
mod tls12;
mod trust;
mod tunnel_port;
mod verifier;
mod web;

pub use driver::SSL_REQUEST;
pub use ends::Expiries;
pub use error::TlsError;
pub use handshake::{Acceptor, Connector};
pub use key_schedule::{Aead, TrafficKey, TrafficSecret, traffic_secrets};
pub use naming::{Naming, about, only_server};
pub use peer::Peer;
pub use provider::{classic_provider, demand_post_quantum, provider, web_provider};
pub use roots::StaleCrls;
pub use session::{Keys, Session};
pub use tls12::Tls12;
pub use trust::{PeerTrust, PeerVerifier, Pin};
pub use tunnel_port::TunnelPort;
pub use verifier::{Presented, SvidVerifier, Verifier, VerifyPeer, refused};
pub use web::web_client;
