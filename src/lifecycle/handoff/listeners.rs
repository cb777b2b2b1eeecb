//! The listening sockets of a process that hands them on.

use std::{
    collections::HashSet,
    fmt::Display,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::sys::sockets;

const ENDPOINT: &str = "endpoint ";

/// What the socket of an endpoint outside of pods is called.
pub fn endpoint(address: impl Display) -> String {
    format!("{ENDPOINT}{address}")
}

/// Sockets, with the addresses that they are for.
pub type InheritedSockets = Vec<(String, OwnedFd)>;

/// The sockets from the process before this one until somebody asks for them, and those that this
/// one listens on, for the process after it. A process that takes over listens on them from the
/// start and accepts once it is ready: until then the other one does.
#[derive(Debug)]
pub struct Listeners {
    inherited: Mutex<InheritedSockets>,
    given: HashSet<String>,
    own: Mutex<Vec<(String, Weak<dyn AsFd + Send + Sync>)>>,
    accepting: CancellationToken,
    /// Once another process has them: those that it listens on, if it says so.
    handed_over: OnceLock<Option<Vec<String>>>,
}

impl Default for Listeners {
    /// Of a process that follows nobody: it accepts at once.
    fn default() -> Self {
        let all = Self::inheriting(Vec::new());
        all.accept();
        all
    }
}

impl Listeners {
    /// Of a process that follows the one which gave these.
    #[must_use]
    pub fn inheriting(inherited: InheritedSockets) -> Self {
        Self {
            given: inherited.iter().map(|(name, _)| name.clone()).collect(),
            inherited: Mutex::new(inherited),
            own: Mutex::default(),
            accepting: CancellationToken::new(),
            handed_over: OnceLock::new(),
        }
    }

    /// Whether the process before this one gave sockets of this name.
    #[must_use]
    pub fn were_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// The sockets that were given under this name, once.
    pub fn take(&self, name: &str) -> Vec<OwnedFd> {
        let mut all = self.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        all.extract_if(.., |(of, _)| of == name).map(|(_, socket)| socket).collect()
    }

    /// Lets the process after this one have a socket for as long as it is open.
    pub fn offer<L: AsFd + Send + Sync + 'static>(&self, name: String, listener: &Arc<L>) {
        let listener: Weak<L> = Arc::downgrade(listener);
        let mut own = self.own();
        if own.len() == own.capacity() {
            own.retain(|(_, listener)| listener.strong_count() > 0);
        }
        own.push((name, listener));
    }

    /// The sockets that this process listens on now, once more.
    ///
    /// # Errors
    /// No descriptors.
    pub fn duplicates(&self) -> io::Result<InheritedSockets> {
        let open = |(name, of): &(String, Weak<dyn AsFd + Send + Sync>)| {
            let listener = of.upgrade()?;
            Some(listener.as_fd().try_clone_to_owned().map(|socket| (name.clone(), socket)))
        };
        self.own().iter().filter_map(open).collect()
    }

    /// The names of the endpoints that this process listens on now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let own = self.own();
        let open = own.iter().filter(|(_, of)| of.strong_count() > 0);
        open.map(|(name, _)| name.clone()).filter(|name| name.starts_with(ENDPOINT)).collect()
    }

    /// The TCP listener of an endpoint outside of pods: the one that was given for `addr`, else
    /// what `bind` makes. Needs the runtime.
    ///
    /// # Errors
    /// What `bind` says, or the kernel.
    pub async fn tcp<F>(&self, addr: SocketAddr, bind: F) -> io::Result<Arc<TcpListener>>
    where
        F: Future<Output = io::Result<TcpListener>>,
    {
        let name = endpoint(addr);
        let listener = match self.take(&name).pop() {
            Some(given) => TcpListener::from_std(sockets::adopted(given)?)?,
            None => bind.await?,
        };
        let listener = Arc::new(listener);
        self.offer(name, &listener);
        Ok(listener)
    }

    /// This process accepts from now on.
    pub fn accept(&self) {
        self.accepting.cancel();
    }

    /// Closes what was given and nobody has asked for.
    pub fn close_unused(&self) {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether this process accepts.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.accepting.is_cancelled()
    }

    /// Waits until this process accepts. Cancel safe.
    pub async fn accepting(&self) {
        self.accepting.cancelled().await;
    }

    /// Another process listens in place of this one from now on: on those endpoints that are among
    /// what it `keeps`, or on all as far as is known.
    pub fn hand_over(&self, keeps: Option<&[String]>) {
        let endpoints = keeps.unwrap_or_default().iter().filter(|name| name.starts_with(ENDPOINT));
        let endpoints: Vec<String> = endpoints.cloned().collect();
        // One that names none does not know that it may: it has some.
        let _ = self.handed_over.set((!endpoints.is_empty()).then_some(endpoints));
    }

    /// Whether another process has the sockets that this one listens on inside of pods.
    #[must_use]
    pub fn has_successor(&self) -> bool {
        self.handed_over.get().is_some()
    }

    /// Whether it listens on the endpoint of this name: its path is that process's then.
    #[must_use]
    pub fn is_handed_over(&self, name: &str) -> bool {
        let all = |endpoints: &Option<Vec<String>>| match endpoints {
            None => true,
            Some(endpoints) => endpoints.iter().any(|endpoint| endpoint == name),
        };
        self.handed_over.get().is_some_and(all)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Vec<(String, Weak<dyn AsFd + Send + Sync>)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_is_offered_no_longer_and_what_was_given_is_taken_once() {
        let open = || Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let own = Listeners::default();
        let (stays, goes) = (open(), open());
        own.offer("stays".into(), &stays);
        own.offer("goes".into(), &goes);
        drop(goes);
        let given = own.duplicates().unwrap();
        assert_eq!(given.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["stays"]);
        let next = Listeners::inheriting(given);
        assert!(next.were_given("stays") && !next.were_given("goes") && !next.is_accepting());
        assert_eq!((next.take("stays").len(), next.take("stays").len()), (1, 0));
        assert!(next.were_given("stays"));
        next.accept();
        assert!(next.is_accepting());
    }

    #[test]
    fn endpoints_that_the_next_process_does_not_name_stay_this_ones() {
        let open = || Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let (admin, pod) = (open(), open());
        let next = Listeners::default();
        next.offer(endpoint("/run/admin"), &admin);
        next.offer("pod".into(), &pod);
        let keeps = next.endpoints();
        assert_eq!(keeps, ["endpoint /run/admin"]);
        for (keeps, other) in
            [(Some(&keeps[..]), false), (Some(&["shop/db".to_owned()][..]), true), (None, true)]
        {
            let own = Listeners::default();
            assert!(!own.is_handed_over("endpoint /run/admin"));
            own.hand_over(keeps);
            own.hand_over(None);
            assert!(own.is_handed_over("endpoint /run/admin"));
            assert_eq!(own.is_handed_over("endpoint /run/other"), other);
        }
    }
}
