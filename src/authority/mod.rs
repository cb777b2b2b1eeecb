//! A CA of one's own, and what signs for others by it.
//!
//! The [`EmbeddedCa`] issues the SVIDs of its trust domain from a directory, whose life
//! [`CaDirectory`] steps through (prepare, activate, taint, revoke); [`serve`] gives SVIDs to other
//! nodes and hosts, over the CA service of Istio, to callers who prove who they are. [`dev_certificates()`]
//! makes certificates for trying things out.

mod dev_certificates;
mod embedded;
pub mod serve;

pub use dev_certificates::{
    CertificateAndKey, DevCertificateRequest, DevCertificates, DevCertificatesError,
    dev_certificates,
};
pub use embedded::{
    Authority, AuthorityKind, AuthorityStatus, CaDirectory, CaError, Dependents, EmbeddedCa,
    Overview, StepError, Upstream,
};
