//! The namespaces that somebody watches, each as it is watched now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::sys::netns::Netns;

/// A namespace that is watched.
pub(crate) trait Watched {
    /// Which.
    fn netns(&self) -> &Netns;
    /// Fires when it is watched no more, or in another way.
    fn over(&self) -> &CancellationToken;
    /// What is not there as it should be.
    fn faults(&self) -> Vec<String>;
}

/// All of them.
pub(crate) struct Register<W>(Mutex<HashMap<(u64, u64), Arc<W>>>);

impl<W> Default for Register<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Watched> Register<W> {
    /// From here on the namespace is watched so, and not as before.
    pub(crate) fn begin(&self, watched: &Arc<W>) {
        let key = watched.netns().key();
        let before = self.with(|all| all.insert(key, Arc::clone(watched)));
        before.inspect(|before| before.over().cancel());
    }

    /// It is watched no more.
    pub(crate) fn end(&self, netns: &Netns) {
        let before = self.with(|all| all.remove(&netns.key()));
        before.inspect(|before| before.over().cancel());
    }

    /// Forgets all of them; whoever watches hears that from elsewhere.
    pub(crate) fn clear(&self) {
        self.with(HashMap::clear);
    }

    /// How many of those that are watched now are so.
    pub(crate) fn count(&self, is_so: impl Fn(&W) -> bool) -> usize {
        self.with(|all| all.values().filter(|watched| is_so(watched)).count())
    }

    /// What is not as it should be, in order.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut all: Vec<_> = self.with(|all| all.values().flat_map(|w| w.faults()).collect());
        all.sort();
        all
    }

    fn with<T>(&self, look: impl FnOnce(&mut HashMap<(u64, u64), Arc<W>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Here(Netns, CancellationToken, &'static str);

    impl Watched for Here {
        fn netns(&self) -> &Netns {
            &self.0
        }

        fn over(&self) -> &CancellationToken {
            &self.1
        }

        fn faults(&self) -> Vec<String> {
            vec![self.2.to_owned()]
        }
    }

    #[test]
    fn a_namespace_is_watched_in_one_way_at_a_time() {
        let netns = || Netns::current().unwrap();
        let [first, second] =
            ["first", "second"].map(|why| Arc::new(Here(netns(), CancellationToken::new(), why)));
        let register = Register::default();
        register.begin(&first);
        register.begin(&second);
        assert!(first.1.is_cancelled() && !second.1.is_cancelled());
        assert_eq!(register.faults(), ["second"]);
        register.end(&netns());
        assert!(second.1.is_cancelled() && register.faults().is_empty());
    }
}
