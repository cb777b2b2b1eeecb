//! No policy in Rego: this build is without the cargo feature `rego`, and refuses each when it is
//! read.

use std::{path::Path, time::Duration};

use crate::{
    identity::{PeerCert, shown},
    observe::{Feature, NotBuilt},
};

/// A policy that is never read.
pub enum Engine {}

impl Engine {
    /// Refuses.
    pub(super) fn read(file: &Path, _: &str) -> Result<Self, String> {
        Err(format!("{}: {}, or name who may call", shown(file), NotBuilt(Feature::Rego)))
    }

    /// Of a peer.
    pub(super) fn decide(&self, _: &PeerCert, _: &str, _: Duration) -> Result<bool, String> {
        match *self {}
    }
}
