//! Who has an address: one owner in the index, and whoever else claims it beside.
//!
//! Of several, the one that claims it best owns it, in whichever order they came; when it goes, the
//! next does.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Protocol, Workload,
    map::{Keyed, Map},
};

/// How well a workload claims an address: a pod before what is none, and one of the mesh before one
/// that is not.
fn rank(workload: &Workload) -> (bool, bool, &str) {
    let is_pod = workload.uid.contains("//Pod/");
    (!is_pod, workload.protocol() != Protocol::Hbone, &workload.uid)
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
#[derive(Default)]
pub(super) struct Claims(HashMap<(Arc<str>, Ipv6Addr), Vec<Arc<Workload>>>);

impl Claims {
    /// `new`, which has not claimed it before, owns the address from now on, or waits for it.
    pub(super) fn claim(
        &mut self,
        (network, owned): (&Arc<str>, &mut Map<Owned<Workload>>),
        ip: Ipv6Addr,
        new: &Arc<Workload>,
    ) {
        let loser = match owned.get(&ip) {
            Some(owner) if rank(&owner.by) < rank(new) => Arc::clone(new),
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
        (network, owned): (&Arc<str>, &mut Map<Owned<Workload>>),
        ip: Ipv6Addr,
        old: &Workload,
    ) {
        let owns = owned.get(&ip).is_some_and(|owner| owner.by.uid == old.uid);
        let key = (Arc::clone(network), ip);
        let mut next = None;
        if let Some(waiting) = self.0.get_mut(&key) {
            if owns {
                let first =
                    (0..waiting.len()).min_by(|a, b| rank(&waiting[*a]).cmp(&rank(&waiting[*b])));
                next = first.map(|at| waiting.swap_remove(at));
            } else {
                waiting.retain(|w| w.uid != old.uid);
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
