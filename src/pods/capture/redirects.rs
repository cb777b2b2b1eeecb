//! The redirections to us that somebody else has made in a pod: istio-cni or Cilium, by nftables or
//! by either kind of iptables (istio-ambient facts §2).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{CaptureError, non_tcp, rules, tools::Tools};
use crate::{mesh::NonTcp, sys::netns::Netns};

/// Which of them stand.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Redirects {
    /// What the pod's applications open is led to us.
    pub outbound: bool,
    /// What arrives as plaintext is.
    pub inbound: bool,
    /// What arrives as plaintext beside them is refused ([`super::refuse_plaintext`]).
    pub refuses: bool,
    /// And whoever refuses it had seen that redirection stand.
    pub missed: bool,
    /// What becomes of what is not TCP; none if somebody has changed what says so.
    pub non_tcp: Option<NonTcp>,
}

/// Where iptables of the old kind has its tables.
const LEGACY: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"),
];

impl Redirects {
    /// What is there now. Tools end when `stop` fires.
    ///
    /// # Errors
    /// [`CaptureError`]: it is not known.
    pub fn look(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<Self, CaptureError> {
        let tools = Tools { netns, stop };
        let mut found = Self::of_nft(&tools.nft(&["-s", "list", "ruleset"], "")?);
        for (names, tool) in LEGACY {
            let has_nat = netns.run(|| {
                std::fs::read_to_string(names).is_ok_and(|all| all.lines().any(|t| t == "nat"))
            })?;
            if has_nat {
                let legacy = Self::of_iptables(&tools.iptables(tool, &["-t", "nat", "-S"])?);
                found.outbound |= legacy.outbound;
                found.inbound |= legacy.inbound;
            }
        }
        Ok(found)
    }

    /// Of a listing by nft: a chain counts once another jumps to it.
    fn of_nft(listed: &str) -> Self {
        let has = |chains: [&str; 3], port: &str| {
            let jumps = chains.iter().any(|chain| listed.contains(&format!("jump {chain}\n")));
            // Without iptables' own libraries nft shows what those have made by its kind alone.
            let redirects = [format!("redirect to :{port}\n"), "xt target \"REDIRECT\"".to_owned()];
            jumps && redirects.iter().any(|rule| listed.contains(&**rule))
        };
        Self {
            outbound: has(["istio-output", "ISTIO_OUTPUT", "CILIUM_OUTPUT"], "15001"),
            inbound: has(["istio-prerouting", "ISTIO_PRERT", "CILIUM_PREROUTING"], "15006"),
            refuses: listed.contains(&format!("table inet {} {{", rules::REFUSE)),
            missed: listed.contains(&format!("chain {} {{", rules::MISSED)),
            non_tcp: non_tcp::standing(listed),
        }
    }

    /// Of a listing by iptables.
    fn of_iptables(listed: &str) -> Self {
        let stands = |chain: &str, port: &str| {
            listed.lines().any(|rule| rule.ends_with(&format!("-j {chain}")))
                && listed.lines().any(|rule| {
                    rule.starts_with(&format!("-A {chain} "))
                        && rule.contains(&format!("REDIRECT --to-ports {port}"))
                })
        };
        let has = |chains: [&str; 2], port| chains.into_iter().any(|chain| stands(chain, port));
        Self {
            outbound: has(["ISTIO_OUTPUT", "CILIUM_OUTPUT"], "15001"),
            inbound: has(["ISTIO_PRERT", "CILIUM_PREROUTING"], "15006"),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft lists what istio-cni has made natively, shortened.
    const NATIVE: &str = "table inet istio-ambient-nat {
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tjump istio-prerouting
\t}
\tchain output {
\t\ttype nat hook output priority -100; policy accept;
\t\tjump istio-output
\t}
\tchain istio-prerouting {
\t\tip daddr != 127.0.0.1 tcp dport != 15008 counter redirect to :15006
\t}
\tchain istio-output {
\t\tmeta l4proto tcp ip daddr != 127.0.0.1 counter redirect to :15001
\t}
}
";
    /// As iptables-legacy lists it.
    const LEGACY: &str = "-P PREROUTING ACCEPT
-N ISTIO_OUTPUT
-N ISTIO_PRERT
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp -m tcp ! --dport 15008 -j REDIRECT --to-ports 15006
";

    #[test]
    fn rules_count_in_each_flavour_and_only_where_they_are_reached() {
        let none = Redirects { non_tcp: Some(NonTcp::Pass), ..Redirects::default() };
        let both = Redirects { outbound: true, inbound: true, ..none };
        let outbound = Redirects { inbound: false, ..both };
        let refused = Redirects { refuses: true, ..none };
        let by_iptables = NATIVE
            .replace("istio-prerouting", "ISTIO_PRERT")
            .replace("istio-output", "ISTIO_OUTPUT");
        for (listed, found) in [
            (NATIVE.to_owned(), both),
            (by_iptables, both),
            (String::new(), none),
            (rules::refuse(false), refused),
            (rules::refuse(true), Redirects { missed: true, ..refused }),
            (non_tcp::ruleset(NonTcp::Drop), Redirects { non_tcp: Some(NonTcp::Drop), ..none }),
            (NATIVE.replace("redirect to :15006", "accept"), outbound),
            (NATIVE.replace("jump istio-prerouting\n", "\n"), outbound),
            (NATIVE.replace("jump", "comment"), none),
        ] {
            assert_eq!(Redirects::of_nft(&listed), found, "{listed}");
        }
        for (listed, found) in [
            (LEGACY.to_owned(), both),
            (LEGACY.replace("-A PREROUTING -j ISTIO_PRERT\n", ""), outbound),
            (LEGACY.replace("15001", "15002").replace("15006", "15002"), none),
        ] {
            let found = Redirects { non_tcp: None, ..found };
            assert_eq!(Redirects::of_iptables(&listed), found, "{listed}");
        }
    }
}
