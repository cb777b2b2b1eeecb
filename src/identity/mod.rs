//! SPIFFE words: who a peer is, and what proves it.
//!
//! [`SpiffeId`] and [`TrustDomain`] are names; an [`X509Svid`] is a name with its proof;
//! [`BundleSet`] is what proofs are checked against, one [`TrustBundle`] per trust domain;
//! [`verify_svid`] is the only judge of a peer's certificate, on both sides of a handshake;
//! [`lint`] explains, rule by rule, what such a judge would say.
//! Not here: where SVIDs come from ([`crate::credentials`]) and TLS itself ([`crate::tls`]).

mod aliases;
mod armour;
mod bundle;
mod bundle_document;
mod bundle_set;
mod constraints;
mod handshake_words;
mod jwk;
mod jwt;
pub mod key_files;
pub mod lint;
mod local_identity;
mod oidc;
mod peer_cert;
pub mod pem;
mod revocation;
mod secrets;
mod shown;
mod spiffe_id;
mod strict_json;
mod svid;
mod svid_error;
mod trust_domain;
mod verify;
mod words;
mod x509;

pub use aliases::TrustDomainAliases;
pub use armour::armour;
pub use bundle::{JwtAuthority, TrustBundle};
pub use bundle_document::{DocumentError, EntryError, MAX_DOCUMENT, MAX_KEYS};
pub use bundle_set::BundleSet;
pub(crate) use constraints::explain as explain_constraints;
pub use handshake_words::{alert_words, crl_words, handshake_words, stream_words};
pub use jwk::{Curve, KeyError, PublicKey};
pub use jwt::{JwtError, JwtSignError, JwtSigner, JwtSvid, MAX_TOKEN, validate_jwt_svid};
pub use local_identity::LocalIdentity;
pub use oidc::{InvalidIssuer, OidcIssuer};
pub use peer_cert::PeerCert;
pub use revocation::Revocations;
pub use secrets::{has_long_run, may_be_shown, without_user, without_users, without_value};
pub use shown::{
    secret_advice, secret_file, shown, shown_all, without, without_keys, without_lines_of_keys,
};
pub use spiffe_id::{InvalidSpiffeId, SpiffeId};
pub use svid::{PrivateKey, X509Svid};
pub(crate) use svid_error::KEYS;
pub use svid_error::SvidError;
pub use trust_domain::{InvalidTrustDomain, TrustDomain};
pub use verify::{Purpose, verify_svid};
pub(crate) use verify::{barred, check_root, check_signer};
pub use words::{chain_words, counted, length, moment, moment_of, until};
pub use x509::{KeyUsageRule, Leaf, common_validity, parse_leaf, parse_leaf_by, system_time};
