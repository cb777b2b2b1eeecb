//! Whether a file has changed since it was last read.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use crate::observe::Refusal;

/// Which file it is, how long, and when it was last written; `None` if it is not there.
pub type Stamp = Option<(u64, u64, SystemTime)>;

/// The stamp of a file, links followed.
#[must_use]
pub fn stamp(file: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.ino(), meta.len(), meta.modified().ok()?))
}

/// A file and its state before it was last read: what changes while it is read, or before
/// somebody looks again, is not lost.
pub struct Followed {
    file: PathBuf,
    seen: Mutex<Stamp>,
    /// Whether what was read last is in use.
    pub refusal: Refusal,
}

/// The path alone: services are compared by it, and one whose files change stays the same.
impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Followed {
    /// Before the file is read for the first time.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        let seen = Mutex::new(stamp(file));
        Self { file: file.to_owned(), seen, refusal: Refusal::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it is another than at the last look.
    #[must_use]
    pub fn changed(&self) -> bool {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) != stamp(&self.file)
    }

    /// It is read now: what it was before that counts as seen.
    pub fn look(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_until_it_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "1").unwrap();
        let followed = Followed::new(&file);
        assert!(!followed.changed());
        std::fs::write(&file, "12").unwrap();
        assert!(followed.changed());
        followed.look();
        assert!(!followed.changed());
        std::fs::remove_file(&file).unwrap();
        assert!(followed.changed());
    }
}
