//! What routing is asked about.

use std::net::SocketAddr;

use crate::{
    mesh::{Avoided, Workload},
    proxy::original_port::OriginalPortHbone,
};

/// A connection to be routed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    /// Who calls.
    pub(super) from: &'a Workload,
    /// Where it meant to go.
    pub(super) dst: SocketAddr,
    /// Chooses among endpoints, and among waypoints.
    pub(super) random: u64,
    /// Endpoints that it is rather not given.
    pub(super) avoided: &'a Avoided,
    /// At which ports tunnels arrive.
    pub(super) ports: OriginalPortHbone,
}
