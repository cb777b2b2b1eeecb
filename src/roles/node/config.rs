//! What an operator may say of how a node treats its pods.

use crate::{identity::TrustDomainAliases, proxy::original_port::OriginalPortHbone};

/// How a node treats its pods, where that is not the same for all.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Other names of the trust domain of its pods.
    pub aliases: TrustDomainAliases,
    /// Whether an application that is told who calls is reached on its loopback address only.
    pub localhost_app_tunnel: bool,
    /// Whether connections may be asked for by SOCKS5.
    pub socks5: bool,
    /// Whether tunnels arrive, and go, at applications' own ports.
    pub original_port: OriginalPortHbone,
    /// Whether an accepted CONNECT is answered with who accepted it.
    pub response_baggage: bool,
    /// Whose address applications see.
    pub original_source: OriginalSource,
    /// Whether ports of pods are listened to on IPv6 too.
    pub ipv6: bool,
}

/// Whether applications see the address of who calls them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OriginalSource {
    /// Where the kernel can; else that of their own pod.
    #[default]
    WherePossible,
    /// No other: a call whose address cannot be kept fails.
    Required,
    /// They see that of their own pod.
    Off,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            aliases: TrustDomainAliases::default(),
            localhost_app_tunnel: true,
            response_baggage: true,
            original_source: OriginalSource::default(),
            ipv6: true,
            socks5: false,
            original_port: OriginalPortHbone::default(),
        }
    }
}
