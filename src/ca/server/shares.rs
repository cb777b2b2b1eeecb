//! How many connections each address has: nobody takes all that there are. An IPv6 host counts by
//! its /64, which it has to itself.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// As many as a node with a thousand pods opens at once, and more.
pub(super) const EACH: usize = 256;

/// The connections of all addresses.
#[derive(Default)]
pub(super) struct Shares(Mutex<HashMap<IpAddr, usize>>);

/// One connection, until dropped.
pub(super) struct Share {
    of: IpAddr,
    all: Arc<Shares>,
}

impl Shares {
    /// Counts one more; `None` if the address has its share.
    pub(super) fn take(self: &Arc<Self>, addr: IpAddr) -> Option<Share> {
        let of = whose(addr);
        let mut all = self.lock();
        let has = all.entry(of).or_default();
        if *has >= EACH {
            return None;
        }
        *has += 1;
        Some(Share { of, all: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(has) = all.get_mut(&self.of) {
            *has -= 1;
            if *has == 0 {
                all.remove(&self.of);
            }
        }
    }
}

fn whose(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_and_has_it_back() {
        let shares = Arc::new(Shares::default());
        let take = |addr: &str| shares.take(addr.parse().unwrap());
        let mut held: Vec<_> = (0..EACH).map(|n| take(&format!("2001:db8::{n:x}"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take("2001:db8::ffff").is_none() && take("2001:db8:0:1::1").is_some());
        held.pop();
        assert!(take("2001:db8::ffff").is_some());
        assert!(take("192.0.2.1").is_some() && take("::ffff:192.0.2.1").is_some());
        drop(held);
        assert!(shares.lock().is_empty());
    }
}
