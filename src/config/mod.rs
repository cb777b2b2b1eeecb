//! Files as written → values as used. All faults of a file are reported at once, each with
//! its line, its key and a suggestion; a file with a fault changes nothing.

mod bans;
mod bounds;
mod broker;
mod ca;
mod ca_server;
mod endpoint;
pub mod environment;
mod fault;
mod federation;
mod files;
mod istiod;
mod kind;
mod mesh_file;
mod not_yaml;
mod opening;
mod policies;
mod reader;
mod restart;
mod sandbox;
mod service_ports;
mod settings;
mod standalone;
mod stunnel;
mod svid_lifetime;
mod unmatched;
mod words;
mod workload_api;

pub use bans::{BansError, load_bans};
pub use ca::CaConfig;
pub use ca_server::{CaServerConfig, check_ca_server, load_ca_server, load_pods};
pub use fault::{Fault, Faults, LoadError};
pub use federation::FederationConfig;
pub use kind::{FileKind, kind};
pub use mesh_file::{Checked, load, parse, read_text};
pub use reader::Files;
pub use restart::KeyLines;
pub use settings::{AdminAddress, Settings};
pub use standalone::{
    Globals, StandaloneFile, check_standalone, check_standalone_for, load_policies, load_standalone,
};
pub use stunnel::{Certificate as ImportedCertificate, Imported, import as import_stunnel};
pub use unmatched::policies_that_never_match;
pub use workload_api::WorkloadApiConfig;
