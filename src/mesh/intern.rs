//! One copy of each value that is in use; what nobody uses any more is forgotten.

use std::{hash::Hash, sync::Arc};

use super::map::{Keyed, Map};

/// Counts its users itself, as views that are still read hold values too.
pub(super) struct Interner<T: ?Sized + Hash + Eq>(Map<Used<T>>);

struct Used<T: ?Sized> {
    value: Arc<T>,
    users: u32,
}

impl<T: ?Sized> Clone for Used<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), users: self.users }
    }
}

impl<T: ?Sized + Hash + Eq> Keyed for Used<T> {
    type Key = T;

    fn key(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized + Hash + Eq> Default for Interner<T> {
    fn default() -> Self {
        Self(Map::default())
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// The copy that is there, for one user more; else the one that is made.
    pub(super) fn hold_or(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let there = self.0.get(value);
        let value = there.map_or_else(make, |used| Arc::clone(&used.value));
        let users = there.map_or(0, |used| used.users) + 1;
        self.0.insert(Used { value: Arc::clone(&value), users });
        value
    }

    /// For one user more.
    pub(super) fn hold(&mut self, value: &Arc<T>) -> Arc<T> {
        self.hold_or(value, || Arc::clone(value))
    }

    /// For one user less; whether it was the last.
    pub(super) fn release(&mut self, value: &T) -> bool {
        let Some(used) = self.0.get(value) else { return false };
        match used.users {
            0 | 1 => self.0.remove(value).is_some(),
            users => {
                let value = Arc::clone(&used.value);
                self.0.insert(Used { value, users: users - 1 });
                false
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
