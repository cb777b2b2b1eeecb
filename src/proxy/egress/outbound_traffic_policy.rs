//! Whether pods may call destinations outside the mesh.

use std::str::FromStr;

/// What happens to a connection to an address that no service and no workload of the mesh has, in
/// the words of Istio's `meshConfig.outboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OutboundTrafficPolicy {
    /// It passes through, in plaintext.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

impl OutboundTrafficPolicy {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

/// Neither of the two words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be ALLOW_ANY or REGISTRY_ONLY")]
pub struct UnknownPolicy;

impl FromStr for OutboundTrafficPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let all = [Self::AllowAny, Self::RegistryOnly];
        all.into_iter().find(|policy| policy.as_str() == text).ok_or(UnknownPolicy)
    }
}
