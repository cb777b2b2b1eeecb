//! Trust domain names (SPIFFE-ID §2.1).

use std::{fmt, str::FromStr, sync::Arc};

/// A trust domain name: 1–255 bytes of `a-z 0-9 . - _` (SPIFFE-ID §2.1, §2.3).
///
/// It is a name and nothing more: it may look like a DNS name or an IP address and is
/// treated as neither.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

/// A text that is not a trust domain name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{name:?} is not a trust domain: 1 to 255 of a-z 0-9 . - _ (SPIFFE-ID §2.1)")]
pub struct InvalidTrustDomain {
    /// The text, cut to a printable length.
    pub name: String,
}

impl TrustDomain {
    /// The name, without a scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;

    fn from_str(name: &str) -> Result<Self, InvalidTrustDomain> {
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if (1..=255).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidTrustDomain { name: name.chars().take(64).collect() })
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
