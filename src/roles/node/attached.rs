//! The pods of this process, as long as anything of them is there: those that drain too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::net::PodName;

/// What they are called.
#[derive(Debug, Default)]
pub struct Attached(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    next: u64,
    all: BTreeMap<u64, Arc<PodName>>,
}

impl Attached {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().all.is_empty()
    }

    /// Enters a pod until what is returned is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &Arc<PodName>) -> Entered {
        let mut names = self.lock();
        let id = names.next;
        names.next += 1;
        names.all.insert(id, Arc::clone(name));
        Entered { id, among: Arc::clone(self) }
    }

    /// Their names; one that drains may be called as another.
    pub(super) fn names(&self) -> Vec<Arc<PodName>> {
        self.lock().all.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's entry.
#[derive(Debug)]
pub struct Entered {
    id: u64,
    among: Arc<Attached>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.among.lock().all.remove(&self.id);
    }
}
