//! Where SVIDs come from, and when they are renewed.
//!
//! A [`Source`] gives SVIDs: the [`EmbeddedCa`] is one; [`rotation`] says when to ask again
//! (pure), [`Svids`] keeps the SVID of every local identity and renews it with nobody's help.

mod budget;
mod embedded;
pub mod rotation;
mod source;
mod svids;

pub use budget::{OutageBudget, seconds_left};
pub use embedded::{CaError, EmbeddedCa};
pub use source::{Source, SourceError, Urgency, Wanted};
pub use svids::{SvidStatus, Svids};
