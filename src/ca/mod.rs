//! Where SVIDs come from, and when they are renewed.
//!
//! A [`Source`] gives SVIDs: the [`EmbeddedCa`] is one; [`rotation`] says when to ask again
//! (pure), [`Svids`] keeps the SVID of every local identity and renews it with nobody's help.

pub mod broker;
mod budget;
mod dial;
mod embedded;
pub mod federation;
mod files;
mod grpc_status;
mod istiod;
pub mod rotation;
pub mod server;
mod source;
mod svid_cache;
mod svids;
pub mod workload_api;

pub use budget::{OutageBudget, seconds_left};
pub use dial::Server;
pub use embedded::{
    Authority, CaDirectory, CaError, Dependents, EmbeddedCa, Kind, Overview, Status, StepError,
    Upstream,
};
pub use files::{Credential, Files, FilesConfig};
pub use istiod::{Istiod, IstiodConfig};
pub use source::{CarriedAs, Source, SourceError, Urgency, Wanted};
pub use svids::{Following, SvidStatus, Svids};
