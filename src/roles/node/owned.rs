//! The addresses that a pod's network namespace holds beside those that the mesh lists for it: a
//! second interface, or a virtual address of a load balancer that answers past it. What arrives
//! there is the pod's, and its policies are asked; what it was only meant to forward is not.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{lifecycle::blocking, sys::netns::Netns};

/// For how long an address counts as held without another look …
const HELD_FOR: Duration = Duration::from_secs(5);
/// … and as not held.
const ABSENT_FOR: Duration = Duration::from_secs(1);
/// How long a look may take; the namespace holds nothing then.
const LOOKED_WITHIN: Duration = Duration::from_secs(1);

/// What the last look has found, if there was one.
#[derive(Default)]
pub(super) struct Owned {
    found: Mutex<Option<CachedAddresses>>,
    /// Held by who looks.
    looking: tokio::sync::Mutex<()>,
}

struct CachedAddresses {
    at: Instant,
    addresses: Vec<IpAddr>,
}

impl Owned {
    /// Whether the namespace holds an address that others can reach. Whoever calls, it is looked
    /// once a second at most.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn holds(&self, netns: &Arc<Netns>, address: IpAddr) -> bool {
        let of = Arc::clone(netns);
        self.told(address, || blocking(move || of.addresses().unwrap_or_default())).await
    }

    async fn told<F: Future<Output = Result<Vec<IpAddr>, E>>, E>(
        &self,
        address: IpAddr,
        look: impl FnOnce() -> F,
    ) -> bool {
        if let Some(known) = self.known(address) {
            return known;
        }
        let _looking = self.looking.lock().await;
        if let Some(known) = self.known(address) {
            return known;
        }
        let found = tokio::time::timeout(LOOKED_WITHIN, look()).await;
        let mut addresses = found.ok().and_then(Result::ok).unwrap_or_default();
        addresses.retain(|address| !address.is_loopback());
        let holds = addresses.contains(&address);
        let found = CachedAddresses { at: Instant::now(), addresses };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        holds
    }

    /// What the last look says of it, unless that was too long ago.
    fn known(&self, address: IpAddr) -> Option<bool> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.as_ref()?;
        let holds = found.addresses.contains(&address);
        let lasts = if holds { HELD_FOR } else { ABSENT_FOR };
        (found.at.elapsed() < lasts).then_some(holds)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible, future::ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_is_looked_at_once_a_second_at_most_whoever_asks() {
        let (looks, held) = (Cell::new(0), Cell::new("10.0.0.2"));
        let owned = Owned::default();
        let holds = |address: &str| {
            let look = || {
                looks.set(looks.get() + 1);
                let all = ["127.0.0.1", held.get()].map(|address| address.parse().unwrap());
                ready(Ok::<_, Infallible>(all.to_vec()))
            };
            owned.told(address.parse().unwrap(), look)
        };
        assert!(holds("10.0.0.2").await && !holds("127.0.0.1").await);
        for n in 0..100 {
            assert!(!holds(&format!("10.0.1.{n}")).await);
        }
        assert_eq!(looks.get(), 1);
        held.set("10.0.0.9");
        tokio::time::advance(ABSENT_FOR).await;
        assert!(holds("10.0.0.2").await, "what was held a moment ago");
        assert!(holds("10.0.0.9").await && !holds("10.0.0.2").await);
        assert_eq!(looks.get(), 2);
        tokio::time::advance(HELD_FOR).await;
        assert!(holds("10.0.0.9").await);
        assert_eq!(looks.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_holds_nothing_and_holds_up_nobody_for_long() {
        let owned = Owned::default();
        let hangs = || std::future::pending::<Result<_, Infallible>>();
        let began = Instant::now();
        for _ in 0..10 {
            assert!(!owned.told("10.0.0.2".parse().unwrap(), hangs).await);
        }
        assert_eq!(began.elapsed(), LOOKED_WITHIN);
    }
}
