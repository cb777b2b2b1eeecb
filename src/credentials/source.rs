//! The seam between a workload's SVID and whoever issues it. Sources differ in how they are
//! reached; what is done with their answers is the same for all ([`super::Svids`]): the last good
//! SVID is kept, failures back off, expiry is told.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
    sync::Arc,
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use crate::identity::{BundleSet, SpiffeId, X509Svid};

/// Whose SVID is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The workload's uid.
    pub uid: Arc<str>,
    /// The identity that it must have.
    pub id: SpiffeId,
}

/// A pod that this node carries, as its platform knows it: what a SPIFFE Broker API is asked with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachedAs {
    /// The workload's uid, as in [`Wanted`].
    pub uid: Arc<str>,
    /// The pod's namespace in Kubernetes.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// Its UID there, which no other pod ever has.
    pub pod_uid: Option<Arc<str>>,
    /// A process of the workload, on this host.
    pub pid: Option<u32>,
}

/// How much somebody waits for it, most first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Urgency {
    /// A connection waits.
    OnDemand,
    /// The pod has started, and nothing waits yet.
    WarmUp,
    /// A renewal with time left.
    Background,
}

/// Why a source gave no SVID.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// It does not answer, or says that it cannot now: trying again may help.
    #[error("{source_name} does not answer: {why}")]
    Unavailable {
        /// Which source, with its address.
        source_name: String,
        /// What it said, or what the kernel said.
        why: String,
    },
    /// It answered no: an operator must change something.
    #[error("{source_name} refuses {id}: {why}")]
    Refused {
        /// Which source, with its address.
        source_name: String,
        /// Whose SVID it does not give.
        id: SpiffeId,
        /// What it said.
        why: String,
    },
    /// It gave something that must not be used.
    #[error("the answer of {source_name} for {id} was rejected: {why}")]
    Unusable {
        /// Which source, with its address.
        source_name: String,
        /// Whose SVID it should be.
        id: SpiffeId,
        /// Which rule it breaks.
        why: String,
    },
    /// It says that what it gave may not be used any more.
    #[error("{source_name} has withdrawn the SVID: {why}")]
    Withdrawn {
        /// Which source, with its address.
        source_name: String,
        /// What it said.
        why: String,
    },
    /// An operator banned the identity: nothing that was given for it may be used any more.
    #[error(
        "{source_name} says that {id} is banned: it is not used until `adit ca unban` lifts the ban"
    )]
    Banned {
        /// Which source, with its address.
        source_name: String,
        /// Who is banned.
        id: SpiffeId,
    },
    /// It gives no JWT-SVIDs.
    #[error("{0} does not issue JWT-SVIDs")]
    NoJwt(&'static str),
    /// Nobody asked for it: the workload is not one of this node.
    #[error("{0} is not a workload of this node")]
    NotWanted(String),
    /// The authority of this very process could not.
    #[error("{why}")]
    Authority {
        /// Whether it is because an operator banned the identity.
        banned: bool,
        /// What went wrong, and what helps.
        why: String,
    },
}

impl SourceError {
    /// Whether an operator banned the identity; no error of a network is one.
    #[must_use]
    pub fn is_ban(&self) -> bool {
        matches!(self, Self::Banned { .. } | Self::Authority { banned: true, .. })
    }
}

/// Where SVIDs come from. Implemented by the embedded CA, istiod, the SPIFFE Workload API, the
/// SPIFFE Broker API and files.
pub trait Source: Send + Sync + 'static {
    /// `embedded`, `istiod`, `workloadApi`, `broker`, `files`: as in the mesh file and in `/certs`.
    fn kind(&self) -> &'static str;

    /// What peers' SVIDs are checked against, as the source has it: whole each time.
    fn bundles(&self) -> watch::Receiver<Arc<BundleSet>>;

    /// Who may not be there, whatever they show; whole each time. `None` if the source bans
    /// nobody ever.
    fn banned(&self) -> Option<watch::Receiver<Arc<BTreeSet<SpiffeId>>>> {
        None
    }

    /// Obtains an SVID, with a key that serves `wanted` only. Waits as long as its own limits
    /// say.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    fn fetch<'a>(
        &'a self,
        wanted: &'a Wanted,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<X509Svid, SourceError>>;

    /// Somebody waits for the SVID of this workload: what was asked for it with less urgency is now
    /// [`Urgency::OnDemand`], if the source lets anybody wait at all.
    fn urge(&self, _uid: &str) {}

    /// The pods that this node carries now, all of them; told before the SVID of one is asked for.
    fn carries(&self, _pods: &[AttachedAs]) {}

    /// The workload has left this node: what was kept for it is not needed any more.
    fn forget(&self, _uid: &str) {}

    /// Obtains a JWT-SVID for `wanted`, for these audiences, JWS Compact.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    fn fetch_jwt<'a>(
        &'a self,
        _wanted: &'a Wanted,
        _audiences: &'a [String],
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        ready(Err(SourceError::NoJwt(self.kind()))).boxed()
    }

    /// Waits until the source has by itself something newer for `wanted` than it last gave.
    /// A source that is only ever asked never returns. Cancel safe.
    fn changed<'a>(&'a self, _wanted: &'a Wanted) -> BoxFuture<'a, ()> {
        pending().boxed()
    }
}
