//! Which optional parts this build has.

/// An optional part of adit: a cargo feature of the same name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Feature {
    /// Certificates from an ACME CA.
    Acme,
    /// `adit bench`.
    Bench,
    /// `adit demo`.
    Demo,
    /// Keys on PKCS#11 tokens.
    Pkcs11,
    /// Access rules in Rego.
    Rego,
    /// Applications reached past TCP.
    Sockmap,
}

/// What was asked for is not in this build.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this adit was built without the cargo feature \"{}\"; install the full build", .0.name())]
pub struct NotBuilt(pub Feature);

impl Feature {
    /// All of them, by name.
    pub const ALL: [Self; 6] =
        [Self::Acme, Self::Bench, Self::Demo, Self::Pkcs11, Self::Rego, Self::Sockmap];

    /// The name of the cargo feature.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Bench => "bench",
            Self::Demo => "demo",
            Self::Pkcs11 => "pkcs11",
            Self::Rego => "rego",
            Self::Sockmap => "sockmap",
        }
    }

    /// Whether this build has it.
    #[must_use]
    pub const fn is_built(self) -> bool {
        match self {
            Self::Acme => cfg!(feature = "acme"),
            Self::Bench => cfg!(feature = "bench"),
            Self::Demo => cfg!(feature = "demo"),
            Self::Pkcs11 => cfg!(feature = "pkcs11"),
            Self::Rego => cfg!(feature = "rego"),
            Self::Sockmap => cfg!(feature = "sockmap"),
        }
    }

    /// Asks for it.
    ///
    /// # Errors
    /// If this build is without it.
    pub const fn require(self) -> Result<(), NotBuilt> {
        if self.is_built() { Ok(()) } else { Err(NotBuilt(self)) }
    }

    /// The names of those that this build has.
    pub fn built() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().filter(|feature| feature.is_built()).map(Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        for feature in Feature::ALL {
            let refused = NotBuilt(feature).to_string();
            assert!(refused.contains(&format!("{:?}; install", feature.name())), "{refused}");
            assert_eq!(feature.require().is_ok(), Feature::built().any(|n| n == feature.name()));
        }
    }
}
