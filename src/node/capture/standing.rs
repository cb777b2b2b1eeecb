//! What stands of the rules in a namespace, and the news that it may have changed.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{CaptureError, Options, has_ipv6, rules, tools::Tools};
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
        // Without its counters.
        let all = tools.nft(&["-s", "list", "ruleset", "inet"], "")?;
        let families = if has_ipv6(netns)? { &["-4", "-6"][..] } else { &["-4"] };
        let routing = |family: &&str| match tools.ip(&[family, "-batch", "-"], rules::ROUTED) {
            Err(CaptureError::Tool { .. }) => Ok(None),
            done => done.map(Some),
        };
        let routing: Result<_, CaptureError> = families.iter().map(routing).collect();
        Ok(Self { nft: of_ours(&all), routing: routing? })
    }

    /// Whether all that `options` ask for is there: what was just applied may be gone again.
    #[must_use]
    pub fn is_whole(&self, options: Options) -> bool {
        let has = |table: &&str| self.nft.contains(&opening(table));
        let filtered = !options.strict || has(&rules::FILTER);
        let routed = |text: &Option<String>| {
            text.as_ref().is_some_and(|text| {
                text.contains("fwmark 0x111/0xfff") && text.contains("local default")
            })
        };
        rules::ALWAYS.iter().all(has) && filtered && self.routing.iter().all(routed)
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

fn opening(table: &str) -> String {
    format!("table inet {table} {{")
}

/// The tables that are adit's, in a fixed order.
fn of_ours(listed: &str) -> String {
    let mut ours = String::new();
    for table in rules::TABLES {
        if let Some((_, rest)) = listed.split_once(&opening(table)) {
            let body = rest.split_once("\n}").map_or(rest, |(body, _)| body);
            ours += &format!("{}{body}\n}}\n", opening(table));
        }
    }
    ours
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

    const LISTED: &str = "table inet other {\n\tchain c {\n\t}\n}\ntable inet adit-nat {\n\tchain \
                          a {\n\t\tx\n\t}\n}\ntable inet adit-mangle {\n\tchain b {\n\t}\n}\n";

    #[test]
    fn other_tables_are_no_part_of_it() {
        let ours = of_ours(LISTED);
        assert!(ours.starts_with("table inet adit-nat {\n\tchain a {\n\t\tx\n\t}\n}\n"), "{ours}");
        assert!(!ours.contains("other") && ours.contains("chain b"), "{ours}");
        assert_eq!(of_ours(&LISTED.replace("chain c", "chain d")), ours);
        assert_eq!(of_ours(""), "");
    }

    #[test]
    fn what_is_gone_or_changed_is_told_apart() {
        let routed = "32764:\tfrom all fwmark 0x111/0xfff lookup 100\nlocal default dev lo\n";
        let whole = Standing { nft: of_ours(LISTED), routing: vec![Some(routed.to_owned())] };
        let options = Options { strict: false, kubelet_probes: false };
        assert!(whole.is_whole(options) && !whole.is_whole(Options::default()));
        assert_eq!(whole.became(&whole.clone()), None);
        let gone = Standing { nft: String::new(), ..whole.clone() };
        assert!(whole.became(&gone).is_some_and(|what| what.contains("removed")));
        assert!(!gone.is_whole(options));
        let changed = Standing { nft: whole.nft.replace('x', "y"), ..whole.clone() };
        assert!(
            whole.became(&changed).is_some_and(|what| what.contains("nft tables were changed"))
        );
        let unrouted = Standing { routing: vec![None], ..whole.clone() };
        assert!(whole.became(&unrouted).is_some_and(|what| what.contains("ip rules")));
        assert!(!unrouted.is_whole(options));
    }
}
