//! The redirections to us that somebody else has made in a pod: istio-cni or Cilium, by nftables or
//! by either kind of iptables (istio-ambient facts §2), in each family of addresses.

use std::{net::IpAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    CaptureError, non_tcp,
    refusal::{self, FAMILIES, Refused},
    tools::Tools,
};
use crate::{mesh::NonTcp, sys::netns::Netns};

/// Which of them stand.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Redirects {
    /// In each family.
    pub families: [OfFamily; 2],
    /// What happens to non-TCP traffic: pass, count or drop; `None` if another program changed the
    /// rules about it.
    pub non_tcp: Option<NonTcp>,
}

/// Which of them stand in one family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OfFamily {
    /// Others reach the pod by this family, or it has no addresses of the other.
    pub is_used: bool,
    /// What the pod's applications open is led to us.
    pub outbound: bool,
    /// What arrives as plaintext is.
    pub inbound: bool,
    /// What arrives as plaintext beside them is to be refused ([`super::refuse_plaintext`]).
    pub refused: Option<Refused>,
    /// iptables-legacy has nat rules in this family; the kernel does not report their changes.
    pub is_legacy: bool,
    /// Plaintext was refused, but the refusal has expired: it was not renewed in time.
    pub has_lapsed: bool,
}

/// Where iptables of the old kind has its tables, of each family.
const LEGACY: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"),
];

/// Chains of others that others jump to, and where what comes through them is led.
const OUTBOUND: ([&str; 3], &str) = (["istio-output", "ISTIO_OUTPUT", "CILIUM_OUTPUT"], "15001");
const INBOUND: ([&str; 3], &str) =
    (["istio-prerouting", "ISTIO_PRERT", "CILIUM_PREROUTING"], "15006");

impl Redirects {
    /// What is there now. Tools end when `stop` fires.
    ///
    /// # Errors
    /// [`CaptureError`]: it is not known.
    pub fn look(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<Self, CaptureError> {
        let tools = Tools { netns, stop };
        let mut found = Self::of_nft(&tools.nft(&["-s", "list", "ruleset"], "")?);
        let used = used(&netns.addresses()?);
        for (((names, tool), family), used) in LEGACY.iter().zip(&mut found.families).zip(used) {
            family.is_used = used;
            let has_nat = netns.run(|| {
                std::fs::read_to_string(names).is_ok_and(|all| all.lines().any(|t| t == "nat"))
            })?;
            family.is_legacy = has_nat;
            if has_nat {
                let listed = tools.iptables(tool, &["-t", "nat", "-S"])?;
                family.outbound |= stands_in_iptables(&listed, OUTBOUND);
                family.inbound |= stands_in_iptables(&listed, INBOUND);
            }
        }
        Ok(found)
    }

    /// Of a listing by nft: a chain counts once another of its table jumps to it.
    fn of_nft(listed: &str) -> Self {
        let mut found = Self { non_tcp: non_tcp::standing(listed), ..Self::default() };
        let listed = format!("\n{listed}");
        for table in listed.split("\ntable ").skip(1) {
            let Some((named, rules)) = table.split_once(" {\n") else { continue };
            let (family, name) = named.split_once(' ').unwrap_or_default();
            for (at, word) in FAMILIES.into_iter().enumerate() {
                let is_of = match family {
                    "ip" => word == "ipv4",
                    "ip6" => word == "ipv6",
                    family => family == "inet",
                };
                if !is_of {
                    continue;
                }
                let of = &mut found.families[at];
                of.outbound |= stands_in_nft(rules, word, OUTBOUND);
                of.inbound |= stands_in_nft(rules, word, INBOUND);
                if name == refusal::TABLE {
                    let (refused, is_held) = refusal::said_of(word, rules);
                    of.refused = refused;
                    of.has_lapsed = refused.is_some() && !is_held;
                }
            }
        }
        found
    }
}

/// By which families others reach a pod of these addresses. Those of a link alone count as none.
fn used(addresses: &[IpAddr]) -> [bool; 2] {
    let is_far = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let far = || addresses.iter().filter(is_far);
    let ipv6 = far().any(IpAddr::is_ipv6);
    [far().any(IpAddr::is_ipv4) || !ipv6, ipv6]
}

/// Whether a table redirects what is of this family.
fn stands_in_nft(rules: &str, family: &str, (chains, port): ([&str; 3], &str)) -> bool {
    let jumps = chains.iter().any(|chain| rules.contains(&format!("jump {chain}\n")));
    let redirects = |rule: &str| {
        // Without iptables' own libraries nft shows what those have made by its kind alone.
        rule.ends_with(&format!("redirect to :{port}")) || rule.contains("xt target \"REDIRECT\"")
    };
    // A rule that names neither family is of both.
    let is_of_other = |rule: &str| {
        let others = if family == "ipv4" { ["ip6", "ipv6"] } else { ["ip", "ipv4"] };
        rule.split_whitespace().any(|word| others.contains(&word))
    };
    jumps && rules.lines().any(|rule| redirects(rule) && !is_of_other(rule))
}

/// Whether a listing by iptables, of one family, redirects.
fn stands_in_iptables(listed: &str, (chains, port): ([&str; 3], &str)) -> bool {
    chains.iter().any(|chain| {
        listed.lines().any(|rule| rule.ends_with(&format!("-j {chain}")))
            && listed.lines().any(|rule| {
                rule.starts_with(&format!("-A {chain} "))
                    && rule.contains(&format!("REDIRECT --to-ports {port}"))
            })
    })
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
        let none = OfFamily::default();
        let both = OfFamily { outbound: true, inbound: true, ..none };
        let outbound = OfFamily { inbound: false, ..both };
        let refused = |is_missed| OfFamily { refused: Some(Refused { is_missed }), ..none };
        let by_iptables = NATIVE
            .replace("istio-prerouting", "ISTIO_PRERT")
            .replace("istio-output", "ISTIO_OUTPUT");
        let refuses = |families: [Option<bool>; 2]| {
            refusal::ruleset(families.map(|of| of.map(|is_missed| Refused { is_missed })))
        };
        let of_ipv6 = |listed: &str| {
            listed.replace("ip daddr != 127.0.0.1", "ip6 daddr != ::1").replace("inet", "ip6")
        };
        for (listed, found) in [
            (NATIVE.to_owned(), [both, none]),
            (by_iptables, [both, none]),
            (NATIVE.replace("ip daddr != 127.0.0.1 ", ""), [both, both]),
            (of_ipv6(NATIVE), [none, both]),
            (NATIVE.to_owned() + &of_ipv6(NATIVE), [both, both]),
            (NATIVE.replace("ip daddr", "ip6 daddr"), [none, both]),
            // What is jumped to in one family is not reached in the other.
            (NATIVE.to_owned() + &of_ipv6(NATIVE).replace("jump", "comment"), [both, none]),
            (String::new(), [none, none]),
            (refuses([Some(false), None]), [refused(false), none]),
            (refuses([Some(false), Some(true)]), [refused(false), refused(true)]),
            (
                refuses([Some(true), Some(true)]).replace("ipv4 timeout", "ipv6 timeout"),
                [OfFamily { has_lapsed: true, ..refused(true) }, refused(true)],
            ),
            (NATIVE.replace("redirect to :15006", "accept"), [outbound, none]),
            (NATIVE.replace("jump istio-prerouting\n", "\n"), [outbound, none]),
            (NATIVE.replace("jump", "comment"), [none, none]),
        ] {
            assert_eq!(Redirects::of_nft(&listed).families, found, "{listed}");
        }
        let dropped = Redirects::of_nft(&non_tcp::ruleset(NonTcp::Drop));
        assert_eq!(dropped, Redirects { non_tcp: Some(NonTcp::Drop), ..Redirects::default() });
        for (listed, expected) in [
            (LEGACY.to_owned(), [true, true]),
            (LEGACY.replace("-A PREROUTING -j ISTIO_PRERT\n", ""), [true, false]),
            (LEGACY.replace("15001", "15002").replace("15006", "15002"), [false, false]),
        ] {
            let found = [OUTBOUND, INBOUND].map(|what| stands_in_iptables(&listed, what));
            assert_eq!(found, expected, "{listed}");
        }
    }

    #[test]
    fn a_pod_is_reached_by_the_families_of_its_far_addresses() {
        for (addresses, expected) in [
            (&["127.0.0.1", "10.0.0.1", "fe80::1"][..], [true, false]),
            (&["::1", "fd00::1", "fe80::1", "169.254.1.1"], [false, true]),
            (&["10.0.0.1", "fd00::1"], [true, true]),
            (&[], [true, false]),
        ] {
            let all: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!(used(&all), expected, "{addresses:?}");
        }
    }
}
