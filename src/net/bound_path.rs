//! The path of a Unix socket that this process listens on, and removes.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// A path, which is removed when this is dropped: if what is there still is what this process has
/// put there, and no other process has it.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    /// Device and inode of what we have put there.
    file: Option<(u64, u64)>,
    handed_over: AtomicBool,
}

impl BoundPath {
    /// What is there now is ours.
    pub(crate) fn of(path: PathBuf) -> Self {
        Self { file: file_at(&path), path, handed_over: AtomicBool::new(false) }
    }

    /// What is there now is another process's still, until [`BoundPath::claim`].
    pub(crate) fn inherited(path: PathBuf) -> Self {
        let path = Self::of(path);
        path.keep();
        path
    }

    /// It is ours from now on: the process that had it listens there no more.
    pub(crate) fn claim(&self) {
        self.handed_over.store(false, Relaxed);
    }

    /// It stays: another process listens there now.
    pub(crate) fn keep(&self) {
        self.handed_over.store(true, Relaxed);
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        let is_ours = self.file.is_some() && file_at(&self.path) == self.file;
        if is_ours && !self.handed_over.load(Relaxed) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of what is at a path.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|is| (is.dev(), is.ino())).ok()
}

#[cfg(test)]
mod tests {
    use crate::net::{Address, Listening, Sockets};

    #[test]
    fn a_path_is_removed_only_while_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let address = Address::Unix(path.clone());
        let first = Listening::open(&address, "").unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Listening::open(&address, "").unwrap();
        drop(first);
        assert!(path.exists(), "it is the second's");
        second.keep_path();
        drop(second);
        assert!(path.exists(), "it is the successor's");
        let third = Listening::open(&address, "").unwrap();
        let given = third.duplicates().unwrap().remove(0);
        let mut successor = Sockets::new(Vec::new(), vec![(address.to_string(), given)]);
        let fourth = successor.open(&address, "").unwrap();
        drop(fourth);
        assert!(path.exists(), "a successor that failed has put nothing there");
        let given = third.duplicates().unwrap().remove(0);
        third.keep_path();
        let mut successor = Sockets::new(Vec::new(), vec![(address.to_string(), given)]);
        let fifth = successor.open(&address, "").unwrap();
        fifth.claim_path();
        drop(third);
        assert!(path.exists(), "it is the successor's from now on");
        drop(fifth);
        assert!(!path.exists());
    }
}
