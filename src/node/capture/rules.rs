//! The rules themselves, in nft's and ip's own language.
//!
//! Marks (mask 0xfff): packets of ours carry 0x539; a flow that we opened towards the
//! application carries 0x111, so that its replies, addressed to the caller's IP, are routed
//! back to us by table 100. Packets of ours in such a flow keep their mark: a changed one would
//! have the kernel route each of them a second time. The tables are named apart from istio-cni's.

/// The tables that are ours.
pub(super) const TABLES: [&str; 2] = ["adit-nat", "adit-mangle"];

/// All rules, in one transaction.
pub(super) const RULESET: &str = "
table inet adit-mangle {
  chain adit-prerouting {
    type filter hook prerouting priority mangle; policy accept;
    meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
  }
  chain adit-output {
    type route hook output priority mangle; policy accept;
    meta mark & 0xfff != 0x539 ct mark & 0xfff == 0x111 meta mark set ct mark
  }
}
table inet adit-nat {
  chain adit-prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto tcp ip saddr 169.254.7.127 accept
    meta l4proto tcp ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
    meta l4proto tcp ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    meta l4proto tcp ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
  chain adit-output {
    type nat hook output priority -100; policy accept;
    meta l4proto tcp ip daddr 169.254.7.127 accept
    meta l4proto tcp ip6 daddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
    meta l4proto tcp meta mark & 0xfff == 0x111 accept
    oifname lo ip daddr != 127.0.0.1 accept
    oifname lo ip6 daddr != ::1 accept
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
    meta l4proto tcp ip6 daddr != ::1 meta mark & 0xfff != 0x539 redirect to :15001
  }
}
";

/// Adding before deleting makes this right whether or not the tables are there.
pub(super) const REMOVE: &str = "
add table inet adit-nat
delete table inet adit-nat
add table inet adit-mangle
delete table inet adit-mangle
";

pub(super) const ROUTING_V4: &str = "
rule add fwmark 0x111/0xfff lookup 100 priority 32764
route replace local 0.0.0.0/0 dev lo table 100
";

pub(super) const ROUTING_V6: &str = "
rule add fwmark 0x111/0xfff lookup 100 priority 32764
route replace local ::/0 dev lo table 100
";

pub(super) const UNROUTING: &str = "
rule del fwmark 0x111/0xfff lookup 100 priority 32764
route flush table 100
";
