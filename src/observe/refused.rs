//! What stands on disk and was not taken: what runs is what was read before.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;

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

/// Whether what is on disk is what runs, as programs read it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ConfigView {
    /// It is.
    Current,
    /// It was refused.
    Refused {
        /// The first refusal in a row, RFC 3339.
        since: String,
        /// The last.
        error: String,
    },
}

impl ConfigView {
    /// Of a refusal, if there is one.
    #[must_use]
    pub fn of(refused: Option<Refused>) -> Self {
        let Some(Refused { since, error }) = refused else { return Self::Current };
        let since = humantime::format_rfc3339_seconds(since).to_string();
        Self::Refused { since, error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_of_what_is_in_force() {
        let json = |refused| serde_json::to_value(ConfigView::of(refused)).unwrap();
        assert_eq!(json(None), json!({ "state": "current" }));
        let refused = Refused { since: SystemTime::UNIX_EPOCH, error: "no".into() };
        let since = "1970-01-01T00:00:00Z";
        let expected = json!({ "state": "refused", "since": since, "error": "no" });
        assert_eq!(json(Some(refused)), expected);
    }

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
