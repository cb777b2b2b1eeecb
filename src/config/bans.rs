//! A file of banned SPIFFE IDs: one per line, `#` begins a comment.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{LoadError, bounds};
use crate::identity::SpiffeId;

/// The longest file that is read, bytes: some ten thousand IDs.
const MAX_FILE: u64 = 4 << 20;

/// Why a file of bans is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BansError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] LoadError),
    /// A line is not a SPIFFE ID: a ban that is not understood would ban nobody.
    #[error("{file}:{line}: {why}; expected one SPIFFE ID per line, # begins a comment")]
    Line {
        /// Which file.
        file: String,
        /// From 1 on.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads a file of banned identities; an empty one bans nobody.
///
/// # Errors
/// The first line that is not a SPIFFE ID, or why the file cannot be read.
pub fn load_bans(path: &Path) -> Result<Arc<BTreeSet<SpiffeId>>, BansError> {
    let text = bounds::read(path, MAX_FILE)?;
    let mut banned = BTreeSet::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        banned.insert(line.parse().map_err(|why: crate::identity::InvalidSpiffeId| {
            let file = crate::identity::shown(path).to_string();
            BansError::Line { file, line: n + 1, why: why.to_string() }
        })?);
    }
    Ok(Arc::new(banned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_id_a_comment_or_an_error_with_its_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            load_bans(file.path())
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let text = "# left us\nspiffe://td/b  # since May\n\n spiffe://td/a\nspiffe://td/b\n";
        assert_eq!(read(text).unwrap(), ["spiffe://td/a", "spiffe://td/b"]);
        assert!(read("").unwrap().is_empty());
        let why = read("spiffe://td/a\n\nspiffe://TD/b\n").unwrap_err().to_string();
        assert!(why.contains(":3: "), "{why}");
        assert!(load_bans(Path::new("/nowhere")).is_err());
    }
}
