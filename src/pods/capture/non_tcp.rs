//! Counts or drops a pod's non-TCP traffic, in an nft table of its own: it works beside the rules
//! of any program that redirects TCP.
//!
//! Left alone and not counted: what stays on `lo`, where queries are redirected to the DNS proxy; DNS
//! in both directions, as pods may ask others and may be such servers; and what IP needs of ICMP.
//! adit itself sends nothing else: its mark, which an application may set too, opens nothing. Answers
//! pass where the question did: a source port alone, which anybody can choose, opens nothing.

use std::{fmt::Write as _, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    CaptureError,
    shape::Shape,
    tools::{self, Tools},
};
use crate::{mesh::NonTcp, sys::netns::Netns};

/// The table.
pub(super) const TABLE: &str = "adit-non-tcp";

/// Removes it, whether or not it is there.
pub(super) const REMOVE: &str = "
add table inet adit-non-tcp
delete table inet adit-non-tcp
";

/// Kinds of non-TCP traffic, as nft matches them; the last one matches all that is left.
const KINDS: [(&str, &str); KINDS_COUNT] = [
    ("udp", "meta l4proto { udp, udplite } "),
    ("sctp", "meta l4proto sctp "),
    // By numbers: nft asks /etc/protocols for the name of ICMPv6, and an image may be without it.
    ("icmp", "meta l4proto { 1, 58 } "),
    ("other", ""),
];
const KINDS_COUNT: usize = 4;

/// Packets of a kind that are counted of one look at a pod's table.
const MOST_AT_ONCE: u64 = 1_000_000_000;

/// Seen from the pod.
const DIRECTIONS: [&str; 2] = ["inbound", "outbound"];

/// The table for a verdict, in one transaction with the removal of the one that is there.
pub(super) fn ruleset(verdict: NonTcp) -> String {
    let last = match verdict {
        NonTcp::Pass => return REMOVE.to_owned(),
        NonTcp::Count => "accept",
        NonTcp::Drop => "drop",
    };
    let mut counters = String::new();
    let judged = DIRECTIONS.map(|direction| {
        let mut rules = String::new();
        for (kind, matched) in KINDS {
            let _ = writeln!(counters, "  counter {kind}-{direction} {{ }}");
            let _ = writeln!(rules, "    {matched}counter name {kind}-{direction} {last}");
        }
        rules
    });
    let [inbound, outbound] = judged;
    format!(
        "{REMOVE}
table inet {TABLE} {{
{counters}  chain adit-input {{
    type filter hook input priority filter; policy accept;
    meta l4proto tcp accept
    iifname lo accept
{NEEDED}{inbound}  }}
  chain adit-postrouting {{
    type filter hook postrouting priority filter; policy accept;
    meta l4proto tcp accept
    oifname lo accept
{NEEDED}{outbound}  }}
}}
"
    )
}

/// What is left alone in both directions.
const NEEDED: &str = "    udp dport 53 accept
    udp sport 53 ct direction reply accept
    icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
    icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
    icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-reduction } accept
    icmpv6 type mld2-listener-report accept
";

/// Which verdict stands, of a listing without counters; none if somebody has changed the table.
pub(super) fn standing(listed: &str) -> Option<NonTcp> {
    let Some(listed) = tools::listed(listed, TABLE) else { return Some(NonTcp::Pass) };
    let is_so = |verdict: &NonTcp| Shape::of(&ruleset(*verdict)) == Shape::of(listed);
    [NonTcp::Count, NonTcp::Drop].into_iter().find(is_so)
}

/// How many packets there were of each kind, in each direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Packets([[u64; KINDS_COUNT]; 2]);

impl Packets {
    /// Each number with its direction and kind.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |(direction, all): (&'static str, [u64; KINDS_COUNT])| {
            KINDS.into_iter().zip(all).map(move |((kind, _), n)| (direction, kind, n))
        };
        DIRECTIONS.into_iter().zip(self.0).flat_map(of)
    }

    /// Those that have come since `before`: a table that was made anew begins at none.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut new = *self;
        for (new, before) in new.0.iter_mut().flatten().zip(before.0.iter().flatten()) {
            // The pod may write its counter, and the sum is the node's: so much in a look at most.
            *new = new.checked_sub(*before).unwrap_or(*new).min(MOST_AT_ONCE);
        }
        new
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (sum, other) in sum.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *sum = sum.saturating_add(*other);
        }
        sum
    }

    /// Of a listing of counters.
    fn read(listed: &str) -> Self {
        let mut packets = Self::default();
        for block in listed.split("counter ").skip(1) {
            let mut words = block.split_whitespace();
            let name = words.next().unwrap_or_default();
            let number = words.skip_while(|word| *word != "packets").nth(1);
            let Some(number) = number.and_then(|number| number.parse().ok()) else { continue };
            for (direction, all) in DIRECTIONS.iter().zip(&mut packets.0) {
                for ((kind, _), place) in KINDS.iter().zip(all) {
                    if name == format!("{kind}-{direction}") {
                        *place = number;
                    }
                }
            }
        }
        packets
    }
}

/// Sets what happens to non-TCP traffic in `netns`, in place of an earlier setting, until the next
/// call or [`super::remove`]. Tools end when `stop` fires.
///
/// # Errors
/// [`CaptureError`]; the earlier setting then remains.
pub fn judge_non_tcp(
    netns: &Arc<Netns>,
    verdict: NonTcp,
    stop: &CancellationToken,
) -> Result<(), CaptureError> {
    Tools { netns, stop }.nft(&["-f", "-"], &ruleset(verdict)).map(drop)
}

/// What has been counted there.
///
/// # Errors
/// [`CaptureError`], also if nothing is counted there.
pub fn non_tcp_packets(
    netns: &Arc<Netns>,
    stop: &CancellationToken,
) -> Result<Packets, CaptureError> {
    let listed = Tools { netns, stop }.nft(&["list", "table", "inet", TABLE], "")?;
    Ok(Packets::read(&listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_somebody_has_changed_is_no_verdict() {
        assert_eq!(standing("table inet istio-ambient-nat {\n}\n"), Some(NonTcp::Pass));
        let other = "table inet other {\n\tchain x {\n\t\tudp dport 9 accept\n\t}\n}\n";
        for verdict in [NonTcp::Count, NonTcp::Drop] {
            let listed = format!("{other}{}{other}", ruleset(verdict));
            assert_eq!(standing(&listed), Some(verdict));
            let rule = "    iifname lo accept\n";
            for changed in [
                listed.replace(rule, &format!("{rule}    udp dport 9 accept\n")),
                listed.replace(rule, &format!("{rule}    return\n")),
                listed.replace(rule, ""),
                listed.replace("adit-non-tcp {\n", "adit-non-tcp {\n  flags dormant\n"),
                listed.replace("counter name udp-inbound drop", "counter name udp-inbound accept"),
                listed.replace("    type filter hook input priority filter; policy accept;\n", ""),
            ] {
                let is_same = changed == listed;
                assert_eq!(standing(&changed), is_same.then_some(verdict), "{changed}");
            }
        }
        assert_eq!(ruleset(NonTcp::Pass), REMOVE);
    }

    #[test]
    fn packets_are_read_and_a_table_made_anew_begins_at_none() {
        let listed = |udp: u64, other: u64| {
            Packets::read(&format!(
                "table inet adit-non-tcp {{\n\tcounter udp-inbound {{\n\t\tpackets {udp} bytes 9\n\
                 \t}}\n\n\tcounter other-outbound {{\n\t\tpackets {other} bytes 9\n\t}}\n\tchain x \
                 {{\n\t\tcounter name \"udp-inbound\" drop\n\t}}\n}}\n"
            ))
        };
        let there =
            |packets: Packets| -> Vec<_> { packets.each().filter(|(.., n)| *n > 0).collect() };
        let first = listed(3, 5);
        assert_eq!(there(first), [("inbound", "udp", 3), ("outbound", "other", 5)]);
        assert_eq!(there(listed(4, 5).since(&first)), [("inbound", "udp", 1)]);
        assert_eq!(there(listed(1, 5).since(&first)), [("inbound", "udp", 1)]);
        assert_eq!(there(first.and(&first)), [("inbound", "udp", 6), ("outbound", "other", 10)]);
        assert_eq!(first.each().count(), 8);
    }
}
