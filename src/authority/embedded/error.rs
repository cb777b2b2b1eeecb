//! What can go wrong with the embedded CA, and what helps.

use std::{io, path::PathBuf};

use super::state::StepError;
use crate::{
    credentials::SourceError,
    identity::{SpiffeId, TrustDomain},
};

/// Why the CA cannot open, issue or take a step.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CaError {
    /// A file or directory; says which, and what to do.
    #[error("CA file {path}: {why}", path = crate::identity::shown(path))]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what helps.
        why: String,
    },
    /// An identity that this CA does not issue.
    #[error("the embedded CA of {trust_domain} does not issue {id}: {why}")]
    NotOurs {
        /// The CA's trust domain.
        trust_domain: TrustDomain,
        /// What was asked for.
        id: SpiffeId,
        /// Why not.
        why: &'static str,
    },
    /// An identity that an operator banned.
    #[error("{0} is banned and gets no SVID; `adit ca unban` lifts it")]
    Banned(SpiffeId),
    /// A step of an authority's life that must not follow.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Cryptography failed.
    #[error("the embedded CA could not sign: {0}")]
    Sign(String),
}

impl CaError {
    pub(super) fn file(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::File { path: path.into(), why: why.into() }
    }

    pub(super) fn io(path: impl Into<PathBuf>, error: &io::Error, what: &str) -> Self {
        Self::file(path, format!("{what}: {error}"))
    }
}

impl From<CaError> for SourceError {
    fn from(error: CaError) -> Self {
        Self::Authority { banned: matches!(error, CaError::Banned(_)), why: error.to_string() }
    }
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error.to_string())
    }
}
