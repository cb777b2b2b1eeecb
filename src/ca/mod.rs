//! Where SVIDs come from, and when they are renewed.
//!
//! [`EmbeddedCa`] issues, [`rotation`] says when to ask again (pure), [`Svids`] keeps the
//! SVID of every local identity and renews it with nobody's help.

mod embedded;
pub mod rotation;
mod svids;

pub use embedded::{CaError, EmbeddedCa};
pub use svids::{SvidStatus, Svids};
