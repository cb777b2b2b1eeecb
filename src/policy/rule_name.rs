//! Which rule of which policy: by its number for programs, and for people with the line that it
//! comes from.

use std::{fmt, sync::Arc};

/// A line of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// As the command or the configuration names it.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a rule is called; displayed as `namespace/name rule N (FILE:LINE)`.
#[derive(Debug)]
pub struct RuleName {
    /// `namespace/name rule N`, which stands in records by itself.
    pub(super) numbered: Arc<str>,
    /// Where it comes from, if its source has lines.
    pub(super) place: Option<Place>,
}

impl RuleName {
    /// Of rule `number`, counted from 0, of the policy `key`.
    pub(super) fn new(key: &str, number: usize, place: Option<Place>) -> Self {
        Self { numbered: format!("{key} rule {number}").into(), place }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} ({place})", self.numbered),
            None => f.write_str(&self.numbered),
        }
    }
}
