//! SPIFFE IDs (SPIFFE-ID §2): `spiffe://<trust-domain>[/<path>]`.

use std::{fmt, str::FromStr, sync::Arc};

use super::TrustDomain;

/// A SPIFFE ID. Cheap to clone; equality is byte equality, as only lower-case trust domains
/// are accepted and paths are case-sensitive (§2.4).
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

/// Why a text is not a SPIFFE ID.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Longer than the 2048 bytes of §2.3.
    #[error("SPIFFE ID is {0} bytes long, the limit is {max} (SPIFFE-ID \
             §2.3)", max = SpiffeId::MAX_LEN)]
    TooLong(usize),
    /// Does not begin with `spiffe://`, in lower case.
    #[error("SPIFFE ID must begin with spiffe:// (SPIFFE-ID §2)")]
    Scheme,
    /// The trust domain is empty, too long, or has a byte outside its set.
    #[error("SPIFFE ID has a bad trust domain: 1 to 255 of a-z 0-9 . - _ (SPIFFE-ID §2.1)")]
    TrustDomain,
    /// A path segment is empty (also: a trailing slash).
    #[error("SPIFFE ID has an empty path segment or a trailing slash (SPIFFE-ID §2.2)")]
    EmptySegment,
    /// A path segment is `.` or `..`.
    #[error("SPIFFE ID has a path segment of . or .. (SPIFFE-ID §2.2)")]
    DotSegment,
    /// A path segment has a byte outside `A-Z a-z 0-9 . - _`.
    #[error("SPIFFE ID path has a character outside A-Z a-z 0-9 . - _ (SPIFFE-ID §2.2)")]
    PathCharacter,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Longest SPIFFE ID that is supported, in bytes of the whole URI (§2.3).
    pub const MAX_LEN: usize = 2048;

    /// The whole URI, `spiffe://…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The URI without its scheme: the form Istio policies call a *principal*.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The same ID, which keeps no copy of its trust domain if that is `domain`.
    #[must_use]
    pub fn sharing(self, domain: &TrustDomain) -> Self {
        match self.trust_domain == *domain {
            true => Self { trust_domain: domain.clone(), ..self },
            false => self,
        }
    }

    /// The path with its leading slash; empty when the ID names the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.uri[SCHEME.len() + self.trust_domain.as_str().len()..]
    }

    /// `(namespace, service account)` when the path has the Kubernetes shape
    /// `/ns/<namespace>/sa/<service account>`, and exactly that.
    #[must_use]
    pub fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }

    /// The ID of a Kubernetes service account, `spiffe://<td>/ns/<namespace>/sa/<account>`.
    ///
    /// # Errors
    /// If either name cannot be a path segment.
    pub fn for_service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        if namespace.contains('/') || account.contains('/') {
            return Err(InvalidSpiffeId::PathCharacter);
        }
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{account}").parse()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(uri: &str) -> Result<Self, InvalidSpiffeId> {
        if uri.len() > Self::MAX_LEN {
            return Err(InvalidSpiffeId::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = authority.parse().map_err(|_| InvalidSpiffeId::TrustDomain)?;
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self { uri: uri.into(), trust_domain })
    }
}

fn check_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    let legal = |b: u8| matches!(b, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match segment {
        "" => Err(InvalidSpiffeId::EmptySegment),
        "." | ".." => Err(InvalidSpiffeId::DotSegment),
        _ if !segment.bytes().all(legal) => Err(InvalidSpiffeId::PathCharacter),
        _ => Ok(()),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}
