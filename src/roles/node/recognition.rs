//! Which workload of the mesh a pod is, and since when that is known.
//!
//! A mesh file names both at once. Where pods and workloads come from two sources, a pod listens
//! before anybody knows who it is; connections wait for that ([`super::known`]). No key is used
//! before it is known.

use std::sync::Arc;

use crate::{
    identity::SpiffeId,
    mesh::{Addresses, Workload},
};

/// What is known of a pod in the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recognition {
    /// Its source has said who it is.
    Given,
    /// Nobody knows who it is, yet or any longer.
    Sought,
    /// It is this workload: its namespace held one of these addresses when that was looked at.
    Proven {
        /// As whom it acts.
        id: SpiffeId,
        /// All of the workload's.
        addresses: Addresses,
    },
    /// It is not the workload that has its name, and why.
    Refuted(Arc<str>),
    /// It has left.
    Left,
}

impl Recognition {
    /// Whether it is proven to be this workload, as that is now.
    #[must_use]
    pub fn is_of(&self, workload: &Workload) -> bool {
        match self {
            Self::Proven { id, addresses } => {
                id == workload.id() && *addresses == workload.addresses
            }
            Self::Given | Self::Sought | Self::Refuted(_) | Self::Left => false,
        }
    }
}
