//! Which implementations seal TLS records, as programs read it. The names of the fields are an
//! interface: one may come, none goes or changes.

use serde::Serialize;

use super::choice::{Choice, choices};

/// What was chosen for every cipher, as `/config_dump` and `/_status` show it.
#[derive(Clone, Debug, Serialize)]
pub struct ChoicesView {
    /// One for each cipher.
    pub aead: Vec<ChoiceView>,
}

/// What was chosen for one cipher.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChoiceView {
    /// The cipher.
    pub cipher: &'static str,
    /// Who seals and opens its records.
    pub implementation: &'static str,
    /// How fast each implementation is.
    pub megabytes_per_second: SpeedsView,
}

/// Megabytes a second, on one core.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SpeedsView {
    /// Of aws-lc.
    pub aws_lc: u64,
    /// Of `ring`.
    pub ring: u64,
}

impl ChoicesView {
    /// What is in force.
    #[must_use]
    pub fn now() -> Self {
        Self { aead: choices().iter().map(ChoiceView::of).collect() }
    }
}

impl ChoiceView {
    fn of(choice: &Choice) -> Self {
        let [aws_lc, ring] = choice.found.map(|found| found.megabytes());
        Self {
            cipher: choice.aead.as_str(),
            implementation: choice.by.as_str(),
            megabytes_per_second: SpeedsView { aws_lc, ring },
        }
    }
}
