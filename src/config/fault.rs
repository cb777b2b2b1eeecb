//! What is wrong with a file, and what would be right.

use std::{fmt, io, path::PathBuf};

use serde::Serialize;

use crate::identity::{counted, shown};

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// The column behind the last character, if that is on the same line.
    pub end_column: Option<usize>,
    /// The path of keys, such as `workloads[0].addresses`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Fault {
    /// One that is about the whole file.
    #[must_use]
    pub fn at_start(message: String) -> Self {
        Self::at(1, 1, message)
    }

    /// What is wrong, and what is said beside it, which is mostly what to do. Values that the
    /// message quotes are part of what is wrong.
    #[must_use]
    pub fn parts(&self) -> (&str, Option<&str>) {
        let (mut in_quotes, mut escaped) = (false, false);
        for (at, c) in self.message.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = in_quotes,
                '"' => in_quotes = !in_quotes,
                ';' if !in_quotes => {
                    if let Some(beside) = self.message[at..].strip_prefix("; ") {
                        return (&self.message[..at], Some(beside));
                    }
                }
                _ => {}
            }
        }
        (&self.message, None)
    }

    /// One at a place of the text that no key leads to.
    pub(super) fn at(line: usize, column: usize, message: String) -> Self {
        Self { line, column, end_column: None, key: String::new(), message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Faults {
    /// The file as it was named.
    pub file: String,
    /// At least one, and at most as many as somebody may want to read.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: usize,
}

impl Faults {
    /// One that is about the whole file.
    pub(super) fn at_start(file: &str, message: &str) -> Self {
        Self::one(file, Fault::at_start(message.into()))
    }

    /// How many there are: `2 errors in mesh.yaml`.
    #[must_use]
    pub fn summary(&self) -> String {
        let all = counted(self.faults.len() + self.more, "error");
        match self.more {
            0 => format!("{all} in {}", self.file),
            more => format!("{all} in {}, {more} of them not listed", self.file),
        }
    }

    /// A single one.
    pub(super) fn one(file: &str, fault: Fault) -> Self {
        Self { file: file.into(), faults: vec![fault], more: 0 }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{}:{fault}", self.file)?;
        }
        f.write_str(&self.summary())
    }
}

impl std::error::Error for Faults {}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{path}: {source}", path = shown(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than anything sensible.
    #[error("{path} has {size} bytes, the limit is {max}", path = shown(path))]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// It has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_quoted_is_no_advice() {
        for (message, what, beside) in [
            ("no", "no", None),
            ("unknown key; did you mean x?", "unknown key", Some("did you mean x?")),
            ("\"a; b\": no; for example c; d", "\"a; b\": no", Some("for example c; d")),
            ("\"a\\\"; b\": no", "\"a\\\"; b\": no", None),
            ("a;b", "a;b", None),
        ] {
            let fault = Fault::at_start(message.into());
            assert_eq!(fault.parts(), (what, beside), "{message}");
        }
    }
}
