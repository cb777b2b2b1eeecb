//! What the configuration says of istiod.

use std::time::Duration;

use crate::{
    credentials::ControlPlane,
    identity::{KeyUsageRule, TrustDomainAliases},
};

/// Where istiod is, what is shown to it, and what it is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IstiodConfig {
    /// Where it is, and what is shown to it.
    pub server: ControlPlane,
    /// What lifetime is asked for.
    pub svid_lifetime: Duration,
    /// Other names of the trust domain of what it signs: its authorities prove peers of those too.
    pub aliases: TrustDomainAliases,
    /// What the leaves that it signs must say of their key's usage.
    pub key_usage: KeyUsageRule,
}
