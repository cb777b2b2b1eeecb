//! The rules themselves, in nft's and ip's own language.
//!
//! Marks (mask 0xfff): packets of ours carry 0x539; a flow that we opened towards the
//! application carries 0x111, so that its replies, addressed to the caller's IP, are routed
//! back to us by table 100. Packets of ours in such a flow keep their mark: a changed one would
//! have the kernel route each of them a second time. The tables are named apart from istio-cni's.

use super::{Options, non_tcp, note};

/// The tables that are ours.
pub(super) const TABLES: [&str; 4] = ["adit-nat", "adit-mangle", "adit-filter", non_tcp::TABLE];

/// The one of them that is there under strict mTLS only.
pub(super) const FILTER: &str = "adit-filter";

/// Those that are there whatever the options are.
pub(super) const ALWAYS: [&str; 2] = ["adit-nat", "adit-mangle"];

/// The kubelet's address when it probes a pod, as istio-cni translates it, in both families.
pub(super) const PROBES: [(&str, &str); 2] =
    [("ip", "169.254.7.127"), ("ip6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff")];

/// All rules in place of those that are there, in one transaction: no packet meets a namespace
/// with the old rules gone and the new ones missing.
pub(super) fn ruleset(options: Options) -> String {
    let probes = |line: &dyn Fn(&str, &str) -> String| -> String {
        let lines =
            PROBES.iter().map(|(family, address)| format!("    {}\n", line(family, address)));
        if options.kubelet_probes { lines.collect() } else { String::new() }
    };
    let probed_in = probes(&|family, address| {
        format!("meta l4proto tcp {family} saddr {address} counter name adit-probes accept")
    });
    let probed = probes(&|family, address| format!("{family} saddr {address} accept"));
    let answered = probes(&|family, address| format!("{family} daddr {address} accept"));
    // What nat has not redirected is from before it, as nat looks at new connections only, or a
    // segment that conntrack makes no connection of: one with FIN is such, and may carry data. One
    // with RST carries none, and ends what the rules have cut. What leaves is looked at when it is
    // known by which interface, and while answers of ours still come from our own ports.
    let filter = if options.strict {
        format!(
            "table inet adit-filter {{
  chain adit-input {{
    type filter hook input priority filter; policy accept;
    iifname lo accept
{probed}    meta l4proto != tcp accept
    tcp flags & rst == rst accept
    tcp dport {{ 15001, 15006, 15008 }} accept
    ct direction original counter drop
    ct state invalid,untracked counter drop
  }}
  chain adit-postrouting {{
    type filter hook postrouting priority filter; policy accept;
    oifname lo accept
{answered}    meta l4proto != tcp accept
    tcp flags & rst == rst accept
    tcp sport {{ 15001, 15006, 15008 }} accept
    meta mark & 0xfff != 0x539 counter drop
  }}
}}
"
        )
    } else {
        String::new()
    };
    let non_tcp = non_tcp::ruleset(options.non_tcp);
    let note = note::of(options);
    format!(
        "{REMOVE}{non_tcp}
table inet adit-mangle {{
  chain adit-prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
  }}
  chain adit-output {{
    type route hook output priority mangle; policy accept;
    meta mark & 0xfff != 0x539 ct mark & 0xfff == 0x111 meta mark set ct mark
  }}
}}
{filter}table inet adit-nat {{
  counter adit-probes {{ }}
  chain adit-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{probed_in}    meta l4proto tcp ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    meta l4proto tcp ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }}
  chain adit-output {{
    type nat hook output priority -100; policy accept;
    meta l4proto tcp meta mark & 0xfff == 0x111 accept comment \"{note}\"
    oifname lo ip daddr != 127.0.0.1 accept
    oifname lo ip6 daddr != ::1 accept
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
    meta l4proto tcp ip6 daddr != ::1 meta mark & 0xfff != 0x539 redirect to :15001
  }}
}}
"
    )
}

/// Whether a packet was sent by the node or by somebody else is seen on the node alone: a pod sees
/// its source only. What arrives at the node, over a wire or a bridge, was not sent by it.
/// Elements that are there stay.
pub(super) fn guard(needed_by: &[u32]) -> String {
    let table = |family, hook, lo| {
        let drops: String = PROBES
            .iter()
            .map(|(family, address)| format!("    {lo}{family} saddr {address} counter drop\n"))
            .collect();
        format!(
            "add table {family} {GUARD}
add chain {family} {GUARD} adit-prerouting {{ type filter hook prerouting priority {hook}; policy accept; }}
flush chain {family} {GUARD} adit-prerouting
table {family} {GUARD} {{
  chain adit-prerouting {{
{drops}  }}
}}
"
        )
    };
    // Tags of VLAN 0 are stripped by whoever receives them, one after the other; a bridge sees
    // behind the first only.
    let tagged = "add rule bridge adit-probes adit-prerouting meta protocol { 8021q, 8021ad } \
                  @nh,4,12 0 counter drop\n";
    let needed: String = needed_by
        .iter()
        .map(|of| format!("add element inet {GUARD} needed-by {{ {} }}\n", element(*of)))
        .collect();
    table("inet", "raw", "iifname != lo ")
        + &table("bridge", "-300", "")
        + tagged
        + NEEDED
        + &needed
}

/// The table of [`guard`] in each family.
pub(super) const GUARD: &str = "adit-probes";

/// A chain that nothing passes through: it is there to be referred to.
const NEEDED: &str = "add chain inet adit-probes needed
add map inet adit-probes needed-by { type mark : verdict; }
";

/// An element as nft prints it too.
pub(super) fn element(of: u32) -> String {
    format!("{of:#010x} : jump needed")
}

/// Takes an element out, whether or not it is there.
pub(super) fn forget(of: u32) -> String {
    let of = element(of);
    format!(
        "{NEEDED}add element inet {GUARD} needed-by {{ {of} }}
delete element inet {GUARD} needed-by {{ {of} }}
"
    )
}

/// Removes what [`guard`] has made, unless an element refers to the chain.
pub(super) const UNGUARD: &str = "
add table inet adit-probes
add chain inet adit-probes needed
delete chain inet adit-probes needed
delete table inet adit-probes
add table bridge adit-probes
delete table bridge adit-probes
";

/// Adding before deleting makes this right whether or not the tables are there.
pub(super) const REMOVE: &str = "
add table inet adit-refuse
delete table inet adit-refuse
add table inet adit-non-tcp
delete table inet adit-non-tcp
add table inet adit-nat
delete table inet adit-nat
add table inet adit-mangle
delete table inet adit-mangle
add table inet adit-filter
delete table inet adit-filter
";

pub(super) const ROUTING_V4: &str = "
route replace local 0.0.0.0/0 dev lo table 100
rule add fwmark 0x111/0xfff lookup 100 priority 32764
";

pub(super) const ROUTING_V6: &str = "
route replace local ::/0 dev lo table 100
rule add fwmark 0x111/0xfff lookup 100 priority 32764
";

/// Where answers to a caller's address are led back to us.
pub(super) const TABLE: u8 = 100;

/// Shows what the two above have made.
pub(super) const ROUTED: &str = "
rule show priority 32764
route show table 100
";

pub(super) const UNROUTING: &str = "
rule del fwmark 0x111/0xfff lookup 100 priority 32764
route flush table 100
";
