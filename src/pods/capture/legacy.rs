//! News of iptables of the old kind, of whose changes the kernel tells nobody: it is asked again and
//! again how far the tables extend, without a tool.

use std::{io, time::Duration};

use crate::sys::{
    netns::Netns,
    xtables::{Extent, NatTable},
};

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(4);

/// Tables of one namespace as they were seen.
#[derive(Debug, Default)]
pub struct LegacyTables(Vec<(NatTable, Extent)>);

impl LegacyTables {
    /// As they are now, in the families that have some.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the kernel says nothing.
    pub fn seen(netns: &Netns, families: [bool; 2]) -> io::Result<Self> {
        let open = [NatTable::ipv4, NatTable::ipv6].into_iter().zip(families);
        let there = open.filter(|(_, is_there)| *is_there).map(|(open, _)| {
            let table = open(netns)?;
            let extent = table.extent()?;
            Ok((table, extent))
        });
        there.collect::<io::Result<_>>().map(Self)
    }

    /// Waits until one has changed since; for ever where there are none.
    ///
    /// # Cancel safety
    /// Cancel safe: what has changed is told by the next call too.
    pub async fn changed(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let is_same =
            |(table, seen): &(NatTable, Extent)| table.extent().is_ok_and(|extent| extent == *seen);
        while self.0.iter().all(is_same) {
            tokio::time::sleep(EVERY).await;
        }
    }
}
