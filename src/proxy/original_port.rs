//! Whether tunnels go to applications' own ports, so that a NetworkPolicy can tell them.

use std::str::FromStr;

/// What a node does with HBONE at the ports of applications, in place of port 15008 for all of them.
/// All nodes take such tunnels before any node makes one: who does not take them hands what comes to
/// the application.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OriginalPortHbone {
    /// It knows of none.
    #[default]
    Off,
    /// It takes them.
    Accept,
    /// It takes them, and makes them towards each workload that it reaches without a waypoint or
    /// gateway.
    Send,
}

impl OriginalPortHbone {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Accept => "accept",
            Self::Send => "send",
        }
    }

    /// Whether such tunnels are taken.
    #[must_use]
    pub fn accepts(self) -> bool {
        self != Self::Off
    }

    /// Whether such tunnels are made.
    #[must_use]
    pub fn sends(self) -> bool {
        self == Self::Send
    }
}

/// None of the three words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("must be off, accept or send")]
pub struct UnknownSetting;

impl FromStr for OriginalPortHbone {
    type Err = UnknownSetting;

    fn from_str(text: &str) -> Result<Self, UnknownSetting> {
        let all = [Self::Off, Self::Accept, Self::Send];
        all.into_iter().find(|setting| setting.as_str() == text).ok_or(UnknownSetting)
    }
}
