//! Who has an address: one owner in the index, and whoever else claims it beside.
//!
//! Of several, the one whose name sorts first owns it, in whichever order they came; when it
//! goes, the next does.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Service, Workload,
    map::{Keyed, Map},
};

/// What may have addresses.
pub(super) trait Owner {
    fn rank(&self) -> (&str, &str);
}

impl Owner for Workload {
    fn rank(&self) -> (&str, &str) {
        (&self.uid, "")
    }
}

impl Owner for Service {
    fn rank(&self) -> (&str, &str) {
        (&self.namespace, &self.hostname)
    }
}

/// An address in its one spelling, IPv4 as IPv6.
pub(super) fn spelled(ip: IpAddr) -> Ipv6Addr {
    match ip {
        // In one piece: bytes written one by one are not there yet when they are hashed.
        IpAddr::V4(ip) => Ipv6Addr::from_bits(0xffff_0000_0000 | u128::from(ip.to_bits())),
        IpAddr::V6(ip) => ip,
    }
}

/// An address and its owner.
pub(super) struct Owned<T> {
    ip: Ipv6Addr,
    pub(super) by: Arc<T>,
}

impl<T> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self { ip: self.ip, by: Arc::clone(&self.by) }
    }
}

impl<T> Keyed for Owned<T> {
    type Key = Ipv6Addr;

    fn key(&self) -> &Ipv6Addr {
        &self.ip
    }
}

/// Those who claim an address that another owns.
pub(super) struct Claims<T>(HashMap<(Arc<str>, Ipv6Addr), Vec<Arc<T>>>);

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Owner> Claims<T> {
    /// `new`, which has not claimed it before, owns the address from now on, or waits for it.
    pub(super) fn claim(
        &mut self,
        (network, owned): (&Arc<str>, &mut Map<Owned<T>>),
        ip: Ipv6Addr,
        new: &Arc<T>,
    ) {
        let loser = match owned.get(&ip) {
            Some(owner) if owner.by.rank() < new.rank() => Arc::clone(new),
            _ => match owned.insert(Owned { ip, by: Arc::clone(new) }) {
                Some(displaced) => displaced.by,
                None => return,
            },
        };
        self.0.entry((Arc::clone(network), ip)).or_default().push(loser);
    }

    /// `old` has the address no longer; whoever waits for it may.
    pub(super) fn release(
        &mut self,
        (network, owned): (&Arc<str>, &mut Map<Owned<T>>),
        ip: Ipv6Addr,
        old: &T,
    ) {
        let owns = owned.get(&ip).is_some_and(|owner| owner.by.rank() == old.rank());
        let key = (Arc::clone(network), ip);
        let mut next = None;
        if let Some(waiting) = self.0.get_mut(&key) {
            if owns {
                let first =
                    (0..waiting.len()).min_by(|a, b| waiting[*a].rank().cmp(&waiting[*b].rank()));
                next = first.map(|at| waiting.swap_remove(at));
            } else {
                waiting.retain(|w| w.rank() != old.rank());
            }
            if waiting.is_empty() {
                self.0.remove(&key);
            }
        }
        match next {
            Some(by) => drop(owned.insert(Owned { ip, by })),
            None if owns => drop(owned.remove(&ip)),
            None => {}
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
