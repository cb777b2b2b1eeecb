//! The listening sockets of a process that hands them on.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::sys::sockets;

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
    handed_over: AtomicBool,
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
            handed_over: AtomicBool::new(false),
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

    /// The TCP listener of an endpoint outside of pods: the one that was given for `addr`, else
    /// what `bind` makes. Needs the runtime.
    ///
    /// # Errors
    /// What `bind` says, or the kernel.
    pub async fn tcp<F>(&self, addr: SocketAddr, bind: F) -> io::Result<Arc<TcpListener>>
    where
        F: Future<Output = io::Result<TcpListener>>,
    {
        let name = format!("endpoint {addr}");
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

    /// The paths of Unix sockets are another process's from now on.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Relaxed);
    }

    /// Whether they are.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Relaxed)
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
}
