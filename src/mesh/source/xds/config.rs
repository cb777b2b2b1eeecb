//! What the configuration says of the control plane.

use super::node::NodeIdentity;
use crate::credentials::ControlPlane;

/// Where the control plane is, and who asks for what.
#[derive(Clone, Debug)]
pub struct XdsConfig {
    /// Where it is, and what is shown to it.
    pub server: ControlPlane,
    /// Who asks.
    pub node: NodeIdentity,
    /// Whether workloads and services are asked for one by one.
    pub on_demand: bool,
}
