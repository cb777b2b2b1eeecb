//! The types of resources that a node subscribes to.

/// A type of resource.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TypeUrl {
    /// Workloads and services.
    Address,
    /// Authorization policies.
    Authorization,
}

impl TypeUrl {
    /// All of them, in the order in which they are asked for.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// As the wire has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// Its name in messages and in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "Address",
            Self::Authorization => "Authorization",
        }
    }

    /// The type that has this URL.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == url)
    }
}
