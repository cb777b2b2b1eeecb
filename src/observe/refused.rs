//! What stands on disk and was not taken: what runs is what was read before.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Why something was not taken, and since when what runs is not what is on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Of the first refusal in a row.
    pub since: SystemTime,
    /// Of the last.
    pub error: String,
}

/// Whether what was read last is in use.
#[derive(Debug, Default)]
pub struct Refusal(Mutex<Option<Refused>>);

impl Refusal {
    /// What is on disk was read and is not used.
    pub fn refused(&self, error: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = last.as_ref().map_or_else(SystemTime::now, |refused| refused.since);
        *last = Some(Refused { since, error: error.to_owned() });
    }

    /// What is on disk is in use.
    pub fn taken(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The refusal, if what is on disk is not what runs.
    #[must_use]
    pub fn get(&self) -> Option<Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_first_of_a_row_and_tells_the_last() {
        let refusal = Refusal::default();
        assert_eq!(refusal.get(), None);
        refusal.refused("one");
        let first = refusal.get().unwrap();
        refusal.refused("two");
        assert_eq!(refusal.get(), Some(Refused { error: "two".into(), ..first }));
        refusal.taken();
        assert_eq!(refusal.get(), None);
    }
}
