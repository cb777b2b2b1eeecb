//! What the configuration says of the control plane.

use pki_types::ServerName;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};

use super::node::NodeIdentity;
use crate::credentials::{AuthToken, Roots, Server};

/// Where the control plane is, and what is shown to it.
#[derive(Clone, Debug)]
pub struct XdsConfig {
    /// As written, for messages.
    pub address: String,
    /// Where and who it is.
    pub server: Server,
    /// A name that its certificate may have instead.
    pub alternative_name: Option<ServerName<'static>>,
    /// What its certificate is checked against.
    pub roots: Roots,
    /// The bearer token; `None` where none is wanted.
    pub token: Option<AuthToken>,
    /// Which cluster this is, for the header `clusterid`.
    pub cluster_id: Option<String>,
    /// Headers of each stream, beside these.
    pub headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    /// Who asks.
    pub node: NodeIdentity,
    /// Whether workloads and services are asked for one by one.
    pub on_demand: bool,
}
