//! What the protocol hands over, in the words of adit.

use std::sync::Arc;

use bytes::Bytes;

use super::type_url::TypeUrl;

/// What a response changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delta {
    /// The type of all of it.
    pub type_url: TypeUrl,
    /// New resources and new versions, each name once, in the order of the response.
    pub upserted: Vec<Upserted>,
    /// Resources that cannot be decoded, with the error. Their previous versions stay in force.
    /// Applied before `upserted`.
    pub refused: Vec<Upserted>,
    /// Names that are in force and are no more; they count after `upserted`.
    pub removed: Vec<Arc<str>>,
}

impl Delta {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upserted.is_empty() && self.refused.is_empty() && self.removed.is_empty()
    }
}

/// A resource that is new, or has a new version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upserted {
    /// Its name, of at most [`MAX_NAME`] bytes.
    pub name: Arc<str>,
    /// The message, not decoded; empty of one that has none of its type.
    pub value: Bytes,
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("its response has a nonce of {0} bytes, more than {MAX_NONCE}")]
pub struct LongNonce(pub usize);

/// Why held versions are not told on a new stream: all resources come again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeftOut {
    /// The list is longer than the control plane takes.
    TooLong {
        /// How many resources are in it.
        resources: usize,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The control plane said that it is: `ResourceExhausted`.
    Refused,
}

/// What came of a key that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// What it names is in force.
    Found,
    /// It names nothing.
    Absent,
    /// What it names is not usable.
    Rejected,
}

/// The longest name of a resource, in bytes.
pub const MAX_NAME: usize = 1024;
/// The longest version, in bytes.
pub const MAX_VERSION: usize = 256;
/// The longest nonce, in bytes.
pub const MAX_NONCE: usize = 4096;
/// How many resources of one type are taken.
pub const MAX_RESOURCES: usize = 1 << 20;
