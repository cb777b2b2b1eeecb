//! The file with the pods of the cluster, read again when it has changed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::{Interval, MissedTickBehavior};

use crate::{
    authority::serve::{Pods, authorize::Pod},
    config::{LoadError, load_pods},
    lifecycle::{Found, Look, ReadTimeout, WatchedFile},
};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a read of the file has found.
type Read = Result<Found<Result<Vec<Pod>, LoadError>>, ReadTimeout>;

/// The file, and what it listed when it was right.
pub(super) struct PodsFile {
    file: PathBuf,
    watched: WatchedFile,
    pods: Pods,
    due: Interval,
    /// The read that is under way.
    reading: Option<BoxFuture<'static, Read>>,
    /// A reload was asked for while the file was being written.
    asked: bool,
}

/// What there is to be done with the file.
pub(super) enum PodsNews {
    /// It is to be looked at.
    Due,
    /// It has been read.
    Read(Read),
}

impl PodsFile {
    /// Reads it. Needs the runtime.
    ///
    /// # Errors
    /// What is wrong with it. From here on a bad edit changes nothing.
    pub(super) fn open(file: PathBuf, pods: &Pods) -> Result<Self, LoadError> {
        // Before it is read: an edit in between is then seen as one.
        let watched = WatchedFile::new(&file);
        pods.store(Arc::new(load_pods(&file)?));
        let mut due = tokio::time::interval(LOOK_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { file, watched, pods: Arc::clone(pods), due, reading: None, asked: false })
    }

    /// Waits for what is to be done, which [`PodsFile::heed`] does. Cancel safe.
    pub(super) async fn news(&mut self) -> PodsNews {
        match &mut self.reading {
            Some(reading) => PodsNews::Read(reading.await),
            None => {
                self.due.tick().await;
                PodsNews::Due
            }
        }
    }

    /// Takes what it lists once it has settled. What is not right changes nothing.
    pub(super) fn heed(&mut self, news: PodsNews) {
        let read = match news {
            PodsNews::Due => return self.look(),
            PodsNews::Read(read) => read,
        };
        self.reading = None;
        let read = match read {
            Ok(found) => match self.watched.found(found) {
                Some(read) => read.map_err(|error| error.to_string()),
                // Written while it was read: a later look takes it.
                None => return,
            },
            Err(late) => Err(late.to_string()),
        };
        self.asked = false;
        match read {
            Ok(new) => {
                tracing::debug!(target: "ca", pods = new.len(), "pods read");
                self.pods.store(Arc::new(new));
            }
            Err(error) => {
                tracing::error!(target: "ca", %error, "pods rejected, keeping the previous ones");
            }
        }
    }

    fn look(&mut self) {
        match self.watched.look() {
            Look::Settled => self.begin(),
            Look::Same => self.asked = false,
            Look::Changing => {}
        }
    }

    /// Reads the file now, or once it has settled if it has just changed.
    pub(super) fn ask(&mut self) {
        self.asked = true;
        if !self.watched.has_changed() {
            self.begin();
        }
    }

    /// Whether no reload that was asked for is still to be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.asked
    }

    fn begin(&mut self) {
        if self.reading.is_none() {
            let file = self.file.clone();
            self.reading = Some(self.watched.begin(move || load_pods(&file)));
        }
    }
}
