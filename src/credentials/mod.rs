//! Where SVIDs and certificates come from, and when they are renewed.
//!
//! A [`Source`] gives SVIDs: istiod, the SPIFFE Workload API, the SPIFFE Broker API, files, and the
//! embedded CA ([`crate::authority::EmbeddedCa`]). [`rotation`] says when to ask again (pure),
//! [`Svids`] keeps the SVID of every local identity and renews it with nobody's help. A [`store`]
//! keeps what one service shows and trusts, which need be no SVID: from files, an ACME CA
//! ([`acme`]) or the SPIFFE Workload API.

pub mod acme;
pub(crate) mod bearer;
pub mod broker;
mod budget;
mod control_plane;
mod credential;
mod crl_file;
pub(crate) mod dial;
mod file_watch;
mod files;
pub(crate) mod grpc_status;
mod istiod;
pub(crate) mod roots;
pub mod rotation;
mod source;
pub mod store;
mod svid_cache;
mod svids;
mod transport;
pub mod workload_api;

pub use bearer::AuthToken;
pub use budget::{OutageBudget, seconds_left};
pub use control_plane::{ControlPlane, Header};
pub use credential::Credential;
pub use crl_file::{CrlFileStatus, WithCrls};
pub use dial::{Roots, Server};
pub use files::{Files, FilesConfig};
pub use istiod::{Istiod, IstiodConfig};
pub use source::{AttachedAs, Source, SourceError, Urgency, Wanted};
pub use svids::{Following, SvidStatus, Svids};
pub use transport::{ByteStream, Duplex, Transport};
