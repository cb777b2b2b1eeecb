//! The state of one workload's SVID: the last good one, the last failure, the next attempt.

use std::{sync::Arc, time::SystemTime};

use crate::{
    credentials::{SourceError, rotation::Validity},
    identity::X509Svid,
};

/// What is held of one identity.
#[derive(Clone, Debug, Default)]
pub(super) struct SvidState {
    pub(super) svid: Option<Arc<X509Svid>>,
    pub(super) error: Option<Arc<SourceError>>,
    pub(super) next: Option<SystemTime>,
    /// When `svid` was obtained.
    pub(super) obtained: Option<SystemTime>,
}

impl SvidState {
    pub(super) fn valid(&self) -> Option<&Arc<X509Svid>> {
        self.svid.as_ref().filter(|svid| validity(svid).covers(SystemTime::now()))
    }
}

pub(super) fn validity(svid: &X509Svid) -> Validity {
    Validity { from: svid.not_before, until: svid.not_after }
}
