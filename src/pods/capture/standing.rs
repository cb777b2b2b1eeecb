//! What stands of the rules in a namespace, and the news that it may have changed.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    CaptureError, Options, has_ipv6, non_tcp, note, rules,
    shape::Shape,
    tools::{Tools, listed},
};
use crate::sys::{
    netlink::{AwaitedNotices, Notices, Subject},
    netns::Netns,
};

/// What the tools print of the rules that are adit's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    nft: String,
    routing: Vec<Option<String>>,
}

impl Standing {
    /// What is there now.
    ///
    /// # Errors
    /// [`CaptureError`], but for what says that there is nothing.
    pub fn look(netns: &Arc<Netns>, stop: &CancellationToken) -> Result<Self, CaptureError> {
        let tools = Tools { netns, stop };
        let mut nft = String::new();
        for table in rules::TABLES {
            // Without its counters. By name: whatever others have there, it is not part of this.
            match tools.nft(&["-s", "list", "table", "inet", table], "") {
                Err(CaptureError::Tool { .. }) => {}
                listed => nft += &listed?,
            }
        }
        let families = if has_ipv6(netns)? { &["-4", "-6"][..] } else { &["-4"] };
        let routing = |family: &&str| match tools.ip(&[family, "-batch", "-"], rules::ROUTED) {
            Err(CaptureError::Tool { .. }) => Ok(None),
            done => done.map(Some),
        };
        let routing: Result<_, CaptureError> = families.iter().map(routing).collect();
        Ok(Self { nft, routing: routing? })
    }

    /// Whether all that `options` ask for is there: what was just applied may be gone again, or
    /// empty.
    #[must_use]
    pub fn is_whole(&self, options: Options) -> bool {
        self.missing(options).is_empty()
    }

    /// What of that is not there, or not as it was applied.
    pub(super) fn missing(&self, options: Options) -> Vec<&'static str> {
        let rules = |table: &str, rule: &str, least: usize| {
            listed(&self.nft, table).is_some_and(|table| table.matches(rule).count() >= least)
        };
        let routed = |text: &Option<String>| {
            text.as_ref().is_some_and(|text| {
                text.contains("fwmark 0x111/0xfff") && text.contains("local default")
            })
        };
        let [nat, mangle] = rules::ALWAYS;
        let (strict, probes) = (options.strict, options.kubelet_probes);
        let admits = |(family, address): &(&str, &str)| {
            let [from, to] = ["saddr", "daddr"].map(|at| format!("{family} {at} {address} "));
            let is_filtered = || rules(rules::FILTER, &from, 1) && rules(rules::FILTER, &to, 1);
            rules(nat, &from, 1) && (!strict || is_filtered())
        };
        let parts = [
            ("the redirection of inbound TCP", rules(nat, "redirect to :15006", 2)),
            ("the redirection of outbound TCP", rules(nat, "redirect to :15001", 2)),
            (
                "the marks of adit's own connections",
                rules(mangle, "ct mark set", 1) && rules(mangle, "meta mark set", 1),
            ),
            (
                "the rules that block older plaintext connections",
                !strict || rules(rules::FILTER, "drop\n", 3),
            ),
            ("the exception for the kubelet's probes", !probes || rules::PROBES.iter().all(admits)),
            (
                "the rules about traffic that is not TCP",
                non_tcp::standing(&self.nft) == Some(options.non_tcp),
            ),
            ("the policy routing (ip rule, table 100)", self.routing.iter().all(routed)),
        ];
        parts.into_iter().filter(|(_, is_there)| !is_there).map(|(part, _)| part).collect()
    }

    /// The tables that are there with other rules than `options` ask for, or are not asked for.
    pub(super) fn changed(&self, options: Options) -> Vec<&'static str> {
        let applied = rules::ruleset(options);
        let is_changed = |table: &&str| {
            let stands = listed(&self.nft, table).map(Shape::of);
            stands.is_some() && stands != listed(&applied, table).map(Shape::of)
        };
        rules::TABLES.into_iter().filter(is_changed).collect()
    }

    /// Whether what is there is what `options` ask for, neither less nor more: another process may
    /// have applied it. Rules of an earlier version, which note no options, are not: applied again
    /// they are listed otherwise.
    #[must_use]
    pub fn is_exactly(&self, options: Options) -> bool {
        let filtered = listed(&self.nft, rules::FILTER).is_some();
        let probed = rules::PROBES.iter().any(|(_, address)| self.nft.contains(address));
        self.is_whole(options)
            && (filtered, probed) == (options.strict, options.kubelet_probes)
            && self.noted() == Some(options)
            && self.changed(options).is_empty()
    }

    /// The options that the rules note.
    pub(super) fn noted(&self) -> Option<Options> {
        listed(&self.nft, rules::ALWAYS[0]).and_then(note::read)
    }

    /// Whether the tables say what they said.
    #[must_use]
    pub fn has_tables_of(&self, before: &Self) -> bool {
        self.nft == before.nft
    }

    /// What has become of it by `now`; nothing if it stands as it did.
    #[must_use]
    pub fn became(&self, now: &Self) -> Option<&'static str> {
        match (self.nft == now.nft, now.nft.is_empty(), self.routing == now.routing) {
            (true, _, true) => None,
            (false, true, _) => Some("its nft tables were removed"),
            (false, false, _) => Some("its nft tables were changed"),
            (true, _, false) => Some("its ip rules or the routes of table 100 were changed"),
        }
    }
}

/// The kernel's news of changes in one namespace.
pub struct Changes([Notices; 2]);

impl Changes {
    /// Listens inside `netns`; blocks for as long as entering it takes.
    ///
    /// # Errors
    /// As [`Notices::open`].
    pub fn open(netns: &Netns) -> io::Result<Self> {
        let table = rules::TABLE;
        let open = |subject| Notices::open(netns, subject);
        Ok(Self([open(Subject::Nftables)?, open(Subject::Routing { table })?]))
    }

    /// To be waited for on this runtime.
    ///
    /// # Errors
    /// As [`AwaitedNotices::new`].
    pub fn awaited(self) -> io::Result<AwaitedChanges> {
        let [nft, routing] = self.0;
        Ok(AwaitedChanges {
            nft: AwaitedNotices::new(nft)?,
            routing: AwaitedNotices::new(routing)?,
        })
    }
}

/// News that can be waited for.
pub struct AwaitedChanges {
    nft: AwaitedNotices,
    routing: AwaitedNotices,
}

impl AwaitedChanges {
    /// Waits until the rules may have changed.
    ///
    /// # Errors
    /// If there is no more news from here.
    ///
    /// # Cancel safety
    /// Cancel safe: what has arrived is told by this call or the next.
    pub async fn next(&self) -> io::Result<()> {
        tokio::select! {
            changed = self.nft.next() => changed,
            changed = self.routing.next() => changed,
        }
    }

    /// Forgets what has arrived until now.
    pub fn forget(&self) {
        self.nft.forget();
        self.routing.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::NonTcp;

    /// As nft lists them, under permissive mTLS.
    const LISTED: &str = "table inet adit-nat {
\tchain adit-prerouting {
\t\tip daddr != 127.0.0.1 redirect to :15006
\t\tip6 daddr != ::1 redirect to :15006
\t}
\tchain adit-output {
\t\tip daddr != 127.0.0.1 redirect to :15001
\t\tip6 daddr != ::1 redirect to :15001
\t}
}
table inet adit-mangle {
\tchain adit-prerouting {
\t\tct mark set 0x111
\t}
\tchain adit-output {
\t\tmeta mark set ct mark
\t}
}
";

    #[test]
    fn rules_of_an_earlier_version_are_whole_and_are_applied_again() {
        let routing = vec![Some("fwmark 0x111/0xfff\nlocal default".to_owned())];
        for strict in [true, false] {
            let options = Options { strict, kubelet_probes: true, non_tcp: NonTcp::Count };
            let nft = rules::ruleset(options);
            let noted = Standing { nft: nft.clone(), routing: routing.clone() };
            assert!(noted.is_exactly(options));
            let note = format!(" comment \"{}\"", note::of(options));
            let earlier = Standing { nft: nft.replace(&note, ""), ..noted };
            assert_ne!(earlier.nft, nft);
            assert!(earlier.is_whole(options) && !earlier.is_exactly(options));
        }
    }

    #[test]
    fn a_rule_more_or_less_is_a_changed_table() {
        let routing = vec![Some("fwmark 0x111/0xfff\nlocal default".to_owned())];
        for strict in [true, false] {
            let options = Options { strict, kubelet_probes: true, non_tcp: NonTcp::Drop };
            let nft = rules::ruleset(options);
            let whole = Standing { nft: nft.clone(), routing: routing.clone() };
            assert!(whole.changed(options).is_empty() && whole.is_exactly(options));
            let hook = "hook prerouting priority dstnat; policy accept;\n";
            let bypass = nft.replace(hook, &format!("{hook}    tcp dport 8080 accept\n"));
            let bypassed = Standing { nft: bypass, ..whole.clone() };
            assert!(bypassed.is_whole(options) && !bypassed.is_exactly(options));
            assert_eq!(bypassed.changed(options), ["adit-nat"]);
            let rule = "    oifname lo ip daddr != 127.0.0.1 accept\n";
            let less = Standing { nft: nft.replace(rule, ""), ..whole.clone() };
            assert_eq!(less.changed(options), ["adit-nat"]);
            let other = Options { strict: false, ..options };
            let unasked = if strict { &["adit-filter"][..] } else { &[] };
            assert_eq!(whole.changed(other), unasked);
        }
    }

    #[test]
    fn what_is_gone_or_changed_is_told_apart() {
        let routed = "32764:\tfrom all fwmark 0x111/0xfff lookup 100\nlocal default dev lo\n";
        let whole = Standing { nft: LISTED.to_owned(), routing: vec![Some(routed.to_owned())] };
        let options = Options { strict: false, ..Options::default() };
        assert!(whole.is_whole(options) && !whole.is_whole(Options::default()));
        let dropping = Options { non_tcp: NonTcp::Drop, ..options };
        let nft = LISTED.to_owned() + &non_tcp::ruleset(NonTcp::Drop);
        let drops = Standing { nft, ..whole.clone() };
        assert!(drops.is_whole(dropping) && !drops.is_exactly(options));
        assert!(!whole.is_whole(dropping));
        let probing = Options { kubelet_probes: true, ..options };
        assert_eq!(whole.missing(probing), ["the exception for the kubelet's probes"]);
        // The drops of another table are not those of the filter.
        let nft = drops.nft.clone() + "table inet adit-filter {\n}\n";
        let emptied = Standing { nft, ..whole.clone() };
        assert_eq!(
            emptied.missing(Options { strict: true, ..dropping }),
            ["the rules that block older plaintext connections"]
        );
        assert_eq!(whole.became(&whole.clone()), None);
        let gone = Standing { nft: String::new(), ..whole.clone() };
        assert!(whole.became(&gone).is_some_and(|what| what.contains("removed")));
        assert!(!gone.is_whole(options));
        let rule = "\t\tip daddr != 127.0.0.1 redirect to :15006\n";
        let emptied = Standing { nft: whole.nft.replace(rule, ""), ..whole.clone() };
        assert!(!emptied.is_whole(options) && !emptied.has_tables_of(&whole));
        let changed = Standing { nft: whole.nft.replace("0x111", "0x112"), ..whole.clone() };
        assert!(
            whole.became(&changed).is_some_and(|what| what.contains("nft tables were changed"))
        );
        let unrouted = Standing { routing: vec![None], ..whole.clone() };
        assert!(whole.became(&unrouted).is_some_and(|what| what.contains("ip rules")));
        assert!(!unrouted.is_whole(options));
    }
}
