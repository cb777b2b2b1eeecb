//! What an operator is shown of the control plane.

use std::time::Instant;

use super::{message::LeftOut, subscription::TypeStatus, type_url::TypeUrl};

/// How the mesh is followed right now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct XdsStatus {
    /// When the present stream began; `None` while there is none.
    pub connected: Option<Instant>,
    /// Why the last stream or the last attempt ended, while there is no stream.
    pub error: Option<String>,
    /// Set if the present stream could not be told what is held.
    pub left_out: Option<LeftOut>,
    /// The first response of each type has been applied, of this stream or an earlier one: the
    /// mesh is known.
    pub is_synced: bool,
    /// Workloads and services.
    pub address: TypeStatus,
    /// Authorization policies.
    pub authorization: TypeStatus,
}

impl XdsStatus {
    /// What is known of a type.
    #[must_use]
    pub fn of(&self, type_url: TypeUrl) -> &TypeStatus {
        match type_url {
            TypeUrl::Address => &self.address,
            TypeUrl::Authorization => &self.authorization,
        }
    }

    pub(super) fn of_mut(&mut self, type_url: TypeUrl) -> &mut TypeStatus {
        match type_url {
            TypeUrl::Address => &mut self.address,
            TypeUrl::Authorization => &mut self.authorization,
        }
    }
}
