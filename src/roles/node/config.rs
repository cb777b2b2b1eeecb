//! What an operator may say of how a node treats its pods.

use crate::identity::TrustDomainAliases;

/// How a node treats its pods, where that is not the same for all.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Other names of the trust domain of its pods.
    pub aliases: TrustDomainAliases,
    /// Whether an application that is told who calls is reached on its loopback address only.
    pub localhost_app_tunnel: bool,
    /// Whether connections may be asked for by SOCKS5.
    pub socks5: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { aliases: TrustDomainAliases::default(), localhost_app_tunnel: true, socks5: false }
    }
}
