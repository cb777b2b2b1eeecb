//! Files that are looked at again and again, and read once they have stopped changing.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Which version of a file is there: where the file is stored, its length, and when it was
/// written. Another content has another version, unless it was written in the same tick of the
/// kernel's clock and is as long; two looks that are further apart than that tell the two apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileVersion {
    /// The version that is there now. Links are followed, those of folders too: Kubernetes
    /// exchanges what it mounts by a link.
    ///
    /// # Errors
    /// If there is no such file, or it may not be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        // A pipe changes by being read.
        let keeps = meta.is_file() || meta.is_dir();
        let content = (meta.len(), (meta.mtime(), meta.mtime_nsec()));
        let (length, modified) = if keeps { content } else { Default::default() };
        Ok(Self { device: meta.dev(), inode: meta.ino(), length, modified })
    }
}

/// The versions of all files of a [`WatchedFile`], in its order; `None` is not a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Versions(Vec<Option<FileVersion>>);

/// What one look at a [`WatchedFile`] has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// The version that was taken.
    Same,
    /// Another, which the look before did not find: somebody may still be writing.
    Changing,
    /// Another, which the look before found too.
    Settled,
}

/// A file, or several that are one thing together (a certificate and its key), and the version of
/// it that is in use.
#[derive(Clone, Debug)]
pub struct WatchedFile {
    paths: Vec<PathBuf>,
    /// What was read last, whether it was right or not.
    taken: Option<Versions>,
    /// What the last look found.
    last: Option<Versions>,
}

impl WatchedFile {
    /// The version that is there now counts as taken: to be called before it is read first, so
    /// that an edit in between is seen as one.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of_all(vec![path.into()])
    }

    /// The same for several files that are one thing together.
    #[must_use]
    pub fn of_all(paths: Vec<PathBuf>) -> Self {
        let taken = Some(versions(&paths));
        Self { paths, taken, last: None }
    }

    /// Nothing was read so far: what is there is settled at the first look, unless it changes
    /// until then.
    #[must_use]
    pub fn unread(paths: Vec<PathBuf>) -> Self {
        let last = Some(versions(&paths));
        Self { paths, taken: None, last }
    }

    /// The files.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What is there now.
    #[must_use]
    pub fn versions(&self) -> Versions {
        versions(&self.paths)
    }

    /// Whether another version than the one taken is there, settled or not.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.taken.as_ref() != Some(&self.versions())
    }

    /// Looks again. To be called now and then; two looks have at least some ten milliseconds
    /// between them.
    pub fn look(&mut self) -> Look {
        let now = self.versions();
        let before = self.last.replace(now.clone());
        match (self.taken.as_ref() == Some(&now), before.as_ref() == Some(&now)) {
            (true, _) => Look::Same,
            (false, true) => Look::Settled,
            (false, false) => Look::Changing,
        }
    }

    /// Looks again: whether another version is there that changes no more. Who writes a file in
    /// place is not read in the middle.
    pub fn has_settled(&mut self) -> bool {
        self.look() == Look::Settled
    }

    /// What was there when it was read, whether that was right or not, counts as taken. `false`
    /// if another version is there by now: then what was read may be half of each, must not be
    /// used, and does not count as taken.
    #[must_use]
    pub fn take(&mut self, read: Versions) -> bool {
        let now = self.versions();
        let whole = now == read;
        if whole {
            self.taken = Some(read);
        }
        self.last = Some(now);
        whole
    }

    /// Reads it by `read`. `None` if it was written meanwhile: nothing was taken, and a later look
    /// finds it settled.
    pub fn read<T>(&mut self, read: impl FnOnce() -> T) -> Option<T> {
        let before = self.versions();
        let value = read();
        self.take(before).then_some(value)
    }
}

fn versions(paths: &[PathBuf]) -> Versions {
    Versions(paths.iter().map(|path| FileVersion::of(path).ok()).collect())
}

#[cfg(test)]
mod tests;
