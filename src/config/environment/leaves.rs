//! What is demanded of the leaves of peers beyond what proves them.

use std::{net::IpAddr, path::Path};

use super::variables::Variables;
use crate::{credentials::ControlPlane, identity::KeyUsageRule};

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
        None if agent => (KeyUsageRule::Optional, "Cilium's agent issues such, and is the CA here"),
        None => (KeyUsageRule::Required, ""),
    };
    if rule == KeyUsageRule::Optional {
        vars.warn(format!(
            "leaves without key usage are accepted, against X509-SVID §4.3: {why}; \
             {NAME}=required refuses them"
        ));
    }
    rule
}

/// Whether it is on this node.
fn is_local(ca: &ControlPlane) -> bool {
    let host = &ca.server.host;
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
