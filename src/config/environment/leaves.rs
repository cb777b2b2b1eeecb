//! What is demanded of the leaves of peers beyond what proves them, and of which trust domains they
//! may be.

use std::{net::IpAddr, path::Path};

use super::variables::Variables;
use crate::{
    credentials::ControlPlane,
    identity::{KeyUsageRule, TrustDomain, TrustDomainAliases},
};

const NAME: &str = "ADIT_LEAF_KEY_USAGE";
/// Where Cilium's agent has its sockets, and nobody else.
const CILIUM: [&str; 2] = ["/var/run/cilium", "/run/cilium"];

/// What is said, else what Cilium's agent needs where it announces the pods and signs for them:
/// its leaves have no key usage.
pub(super) fn key_usage(
    vars: &Variables,
    ca: Option<&ControlPlane>,
    zds_socket: &Path,
) -> KeyUsageRule {
    let agent = CILIUM.iter().any(|dir| zds_socket.starts_with(dir)) && ca.is_some_and(is_local);
    let (rule, why) = match vars.text(NAME).filter(|said| !said.is_empty()) {
        Some("required") => (KeyUsageRule::Required, ""),
        Some("optional") => (KeyUsageRule::Optional, "ADIT_LEAF_KEY_USAGE=optional"),
        Some(_) => {
            vars.fault(NAME, "required or optional");
            (KeyUsageRule::Required, "")
        }
        None if agent => {
            (KeyUsageRule::Optional, "the CA is Cilium's agent, which issues such certificates")
        }
        None => (KeyUsageRule::Required, ""),
    };
    if rule == KeyUsageRule::Optional {
        vars.warn(format!(
            "leaf certificates without key usage are accepted, which X509-SVID §4.3 forbids: \
             {why}; {NAME}=required refuses them"
        ));
    }
    rule
}

/// Whether it is on this node.
fn is_local(ca: &ControlPlane) -> bool {
    let host = &ca.server.host;
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

const ALIASES: &str = "ADIT_TRUST_DOMAIN_ALIASES";
/// So many names of a peer are looked at for each connection.
const MOST_ALIASES: usize = 32;

/// Istio's `trustDomainAliases`, which istiod tells no node proxy of. A SPIFFE provider says itself
/// which trust domains count.
pub(super) fn trust_domain_aliases(vars: &Variables) -> TrustDomainAliases {
    let names = vars.text(ALIASES).unwrap_or_default().split(',').map(str::trim);
    let read: Vec<Option<TrustDomain>> =
        names.filter(|name| !name.is_empty()).map(|name| name.parse().ok()).collect();
    let number = read.len();
    let aliases: Option<TrustDomainAliases> =
        read.into_iter().collect::<Option<Vec<_>>>().map(|domains| domains.into_iter().collect());
    let by_istiod = matches!(vars.text("ADIT_SVID_SOURCE"), None | Some("" | "istiod"));
    if aliases.is_none() || number > MOST_ALIASES {
        let expected = format!("at most {MOST_ALIASES} trust domains, such as old.test,older.test");
        vars.fault(ALIASES, &expected);
    } else if number > 0 && !by_istiod {
        let expected = "no value: with ADIT_SVID_SOURCE the SPIFFE provider says which trust domains are \
             trusted";
        vars.fault(ALIASES, expected);
    }
    aliases.unwrap_or_default()
}
