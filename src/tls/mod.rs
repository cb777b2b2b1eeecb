//! Mutual TLS 1.3 between X.509-SVIDs: who the peer is, proven on both sides.
//!
//! rustls does every handshake; it ends in a [`Session`], whose records are ours
//! ([`crate::tunnel`]). [`Acceptor`] and [`Connector`] are given an SVID and never ask for one. Every handshake
//! has a deadline; a peer's certificate is judged by [`crate::identity::verify_svid`] only.
//! Not here: where SVIDs come from ([`crate::ca`]) and what runs inside ([`crate::tunnel`]).

mod driver;
mod error;
mod handshake;
mod provider;
mod session;
mod verifier;

pub use error::TlsError;
pub use handshake::{Acceptor, Connector, Peer};
pub use session::{Aead, KeySchedule, Keys, Session, TrafficSecrets};
