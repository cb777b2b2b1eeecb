//! What all pods' queries have in common.

use std::sync::Arc;

use super::{answer::Naming, resolv_conf::NameServers};
use crate::{mesh::View, observe::metrics::Metrics};

/// The mesh at this moment.
pub type CurrentView = Arc<dyn Fn() -> Arc<View> + Send + Sync>;

pub(super) struct Shared {
    pub(super) mesh: CurrentView,
    pub(super) metrics: Arc<Metrics>,
    pub(super) naming: Naming,
    pub(super) servers: NameServers,
    /// Of each pod, in a second.
    pub(super) queries: u32,
}
