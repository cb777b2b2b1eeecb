//! Files that are looked at again and again, and read once they have stopped changing.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::blocking;

/// How long a file may take to be read, a large one on a busy machine too: one may have become a
/// pipe, or its mount may hang.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// As many reads that do not end keep a thread each: of as many versions.
const MOST_READS: usize = 4;

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
    /// Another, which the look before did not find: somebody may still be writing. Or it is being
    /// read.
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
    /// The versions that are being read; a read that has ended has dropped what is beside it.
    reads: Vec<(Versions, Weak<()>)>,
}

/// What a read of a [`WatchedFile`] beside everything else has found, and which versions there
/// were.
#[derive(Debug)]
pub struct Found<T> {
    value: T,
    before: Versions,
    after: Versions,
}

/// Why a file was not read beside everything else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "it could not be read within {READ_WITHIN:?}: it may be a pipe without a writer, or on a mount \
     that hangs"
)]
pub struct ReadTimeout;

impl WatchedFile {
    /// The version that is there now counts as taken: to be called before it is read first, so
    /// that an edit in between is seen as one.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of_all(vec![path.into()])
    }

    /// Several files that are one thing together; the versions that are there now count as taken.
    #[must_use]
    pub fn of_all(paths: Vec<PathBuf>) -> Self {
        let taken = Some(versions(&paths));
        Self { paths, taken, last: None, reads: Vec::new() }
    }

    /// Nothing was read so far: what is there is settled at the first look, unless it changes
    /// until then.
    #[must_use]
    pub fn unread(paths: Vec<PathBuf>) -> Self {
        let last = Some(versions(&paths));
        Self { paths, taken: None, last, reads: Vec::new() }
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

    /// The files of which another version than the one taken is there; all, if nothing was read.
    #[must_use]
    pub fn changed(&self) -> Vec<PathBuf> {
        let now = self.versions().0;
        let taken = self.taken.as_ref().map_or(&[][..], |taken| &taken.0);
        let has_changed = |(n, _): &(usize, &PathBuf)| taken.get(*n) != now.get(*n);
        self.paths.iter().enumerate().filter(has_changed).map(|(_, path)| path.clone()).collect()
    }

    /// Whether another version than the one taken is there, settled or not.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.taken.as_ref() != Some(&self.versions())
    }

    /// Looks again. To be called now and then; two looks have at least some ten milliseconds
    /// between them. While it is being read nothing has settled.
    pub fn look(&mut self) -> Look {
        let now = self.versions();
        let before = self.last.replace(now.clone());
        match (self.taken.as_ref() == Some(&now), before.as_ref() == Some(&now)) {
            (true, _) => Look::Same,
            (false, true) if !self.is_being_read(&now) => Look::Settled,
            (false, _) => Look::Changing,
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

    /// Reads it by `read` where that keeps nobody else waiting; [`WatchedFile::found`] takes what
    /// comes of it. A version is read once at a time: a read that never ends keeps one thread, not
    /// one each time, and that version is read again once it has ended.
    ///
    /// # Errors
    /// It takes too long.
    ///
    /// # Cancel safety
    /// Dropping the future forgets what is read.
    pub fn begin<T: Send + 'static>(
        &mut self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<Found<T>, ReadTimeout>> {
        let (now, paths, under_way) = (self.versions(), self.paths.clone(), Arc::new(()));
        self.reads.retain(|(_, read)| read.strong_count() > 0);
        let hangs = self.is_being_read(&now);
        if !hangs {
            self.reads.push((now, Arc::downgrade(&under_way)));
        }
        let read = move || {
            let before = versions(&paths);
            let value = read();
            let after = versions(&paths);
            drop(under_way);
            Found { value, before, after }
        };
        Box::pin(async move {
            if hangs {
                return Err(ReadTimeout);
            }
            let found = timeout(READ_WITHIN, blocking(read)).await;
            found.ok().and_then(Result::ok).ok_or(ReadTimeout)
        })
    }

    /// Whether a read of this version has not ended, or too many of others have not.
    fn is_being_read(&self, now: &Versions) -> bool {
        let under_way = || self.reads.iter().filter(|(_, read)| read.strong_count() > 0);
        under_way().count() >= MOST_READS || under_way().any(|(version, _)| version == now)
    }

    /// What was read, as [`WatchedFile::read`] gives it.
    pub fn found<T>(&mut self, Found { value, before, after }: Found<T>) -> Option<T> {
        let whole = before == after;
        if whole {
            self.taken = Some(before);
        }
        self.last = Some(after);
        whole.then_some(value)
    }

    /// Both: [`WatchedFile::begin`] and [`WatchedFile::found`].
    ///
    /// # Errors
    /// As [`WatchedFile::begin`].
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has taken nothing.
    pub async fn read_beside<T: Send + 'static>(
        &mut self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, ReadTimeout> {
        let found = self.begin(read).await?;
        Ok(self.found(found))
    }
}

fn versions(paths: &[PathBuf]) -> Versions {
    Versions(paths.iter().map(|path| FileVersion::of(path).ok()).collect())
}

#[cfg(test)]
mod tests;
