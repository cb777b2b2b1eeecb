//! Files that are one thing together, a certificate with its key and roots: read beside the control
//! thread, and read again once they have stopped changing, or have not for long. What is read is
//! taken as a whole, and only if nothing changed meanwhile.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::{
    identity::{key_files::at, shown_all},
    lifecycle::{Look, WatchedFile},
};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// How long they may keep changing before they are judged all the same, and what is wrong is put
/// down to that.
const RESTLESS: Duration = Duration::from_secs(5);
/// How often files that were refused are judged again though nobody touched them: perhaps it was
/// only too early for them.
pub(super) const ANEW: Duration = Duration::from_secs(30);
/// How long they may take to be read: one may have become a pipe.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Reads files where that keeps nobody else waiting: a keystore's key derivation may take a second.
/// One read at a time: a file that cannot be read to its end holds one thread, not one each time.
#[derive(Debug)]
pub(super) struct FileReader {
    paths: Vec<PathBuf>,
    /// What beside the files may not answer.
    beside: Option<&'static str>,
    turn: Arc<Semaphore>,
}

impl FileReader {
    /// Of these files, and of something `beside` them that is asked for the key.
    pub(super) fn new(paths: Vec<PathBuf>, beside: Option<&'static str>) -> Self {
        Self { paths, beside, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Reads them by `read`, however long that takes.
    pub(super) async fn wait<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|e| e.to_string())?;
        let read = tokio::task::spawn_blocking(move || {
            let read = read();
            drop(turn);
            read
        });
        read.await.map_err(|e| format!("reading files: {e}"))?
    }

    /// Reads them by `read`, unless that takes too long.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        timeout(READ_WITHIN, self.wait(read)).await.unwrap_or_else(|_| Err(self.unread()))
    }

    fn unread(&self) -> String {
        let no_file = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        match (self.paths.iter().find(no_file), self.beside) {
            (Some(path), _) => at(path, "is a pipe without a writer"),
            (None, Some(beside)) => format!("{beside} did not answer within {READ_WITHIN:?}"),
            (None, None) => format!("files could not be read within {READ_WITHIN:?}"),
        }
    }
}

/// Files that are read again when they have changed.
#[derive(Debug)]
pub(super) struct FileWatch {
    watched: WatchedFile,
    /// How often what was refused is judged again.
    anew: Option<Duration>,
    /// When that is due.
    again: Option<Instant>,
    /// Why the last was refused.
    refused: String,
    /// When they were last seen to stand still.
    calm: Instant,
    looked: bool,
    /// Those that the last version that was read has changed.
    changed: Vec<PathBuf>,
}

impl FileWatch {
    /// These files; what was refused is judged again after `anew`, though nobody touched them.
    pub(super) fn new(watched: WatchedFile, anew: Option<Duration>) -> Self {
        let (again, refused, calm) = (None, String::new(), Instant::now());
        Self { watched, anew, again, refused, calm, looked: false, changed: Vec::new() }
    }

    /// The files that changed before the last read, as a log shows them; all, if none did.
    pub(super) fn changed(&self) -> String {
        shown_all(if self.changed.is_empty() { self.watched.paths() } else { &self.changed })
    }

    /// Waits until there is another version, and gives what `read` makes of it. What it refuses in
    /// the words that it had for the same version before is not told again.
    pub(super) async fn next<T, F: Future<Output = Result<T, String>>>(
        &mut self,
        read: impl Fn() -> F,
    ) -> Result<T, String> {
        loop {
            if std::mem::replace(&mut self.looked, true) {
                sleep(EVERY).await;
            }
            let look = self.watched.look();
            if look != Look::Changing {
                self.calm = Instant::now();
            }
            let due = self.again.is_some_and(|at| Instant::now() >= at);
            match look {
                Look::Same if !due => continue,
                Look::Changing if self.calm.elapsed() < RESTLESS => continue,
                _ => {}
            }
            let before = self.watched.versions();
            let read = read().await;
            if self.watched.versions() != before {
                continue; // written while it was read
            }
            self.calm = Instant::now();
            if look == Look::Changing && read.is_err() {
                continue;
            }
            let changed = self.watched.changed();
            if !self.watched.take(before) {
                continue;
            }
            // What was refused before counts as well: it is taken only now.
            self.changed.retain(|path| !self.refused.is_empty() && !changed.contains(path));
            self.changed.extend(changed);
            let said = std::mem::take(&mut self.refused);
            self.again = None;
            if let Err(why) = &read {
                self.again = self.anew.map(|anew| Instant::now() + anew);
                self.refused.clone_from(why);
                if look == Look::Same && said == *why {
                    continue;
                }
            }
            return read;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        fs,
        future::ready,
        time::{Duration, SystemTime},
    };

    use super::*;

    fn write(path: &std::path::Path, second: u64) {
        fs::write(path, "text").unwrap();
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
    }

    /// Why something is refused may pass by itself: it is judged again, and told when that differs.
    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_judged_again_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        write(&file, 1);
        let mut watch = FileWatch::new(WatchedFile::unread(vec![file.clone()]), Some(ANEW));
        let reads = Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            ready(if reads.get() < 4 { Err("too early".to_owned()) } else { Ok(reads.get()) })
        };
        let start = Instant::now();
        assert_eq!(watch.next(read).await, Err("too early".to_owned()));
        assert_eq!(watch.changed(), file.display().to_string());
        assert!(start.elapsed() < ANEW);
        assert_eq!(watch.next(read).await, Ok(4));
        assert!((3 * ANEW..4 * ANEW).contains(&start.elapsed()), "{:?}", start.elapsed());
        // In use now: nothing is read until somebody writes.
        assert!(timeout(10 * ANEW, watch.next(read)).await.is_err());
        write(&file, 2);
        assert_eq!(watch.next(read).await, Ok(5));
    }

    /// A token counts wrong PINs: what was refused there waits for somebody to change it.
    #[tokio::test(start_paused = true)]
    async fn without_a_time_what_was_refused_waits_for_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        write(&file, 1);
        let mut watch = FileWatch::new(WatchedFile::unread(vec![file.clone()]), None);
        let read = || ready(Err::<(), _>("no".to_owned()));
        assert!(watch.next(read).await.is_err());
        assert!(timeout(10 * ANEW, watch.next(read)).await.is_err());
        write(&file, 2);
        assert!(watch.next(read).await.is_err(), "the same words for another version");
    }

    /// A thread that hangs at a pipe is the only one.
    #[tokio::test]
    async fn a_pipe_is_given_up_and_holds_one_thread() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("p");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = FileReader::new(vec![pipe.clone()], None);
        let read = || {
            let pipe = pipe.clone();
            move || fs::read(pipe).map_err(|e| e.to_string())
        };
        let (one, two) = tokio::join!(reader.read(read()), reader.read(read()));
        for read in [one, two] {
            assert!(read.unwrap_err().ends_with("is a pipe without a writer"));
        }
        assert_eq!(reader.turn.available_permits(), 0, "the first reads still");
        fs::write(&pipe, "text").unwrap();
        assert_eq!(reader.read(|| Ok(7)).await, Ok(7));
    }
}
