//! The file with the pods of the cluster, read again when it has changed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};

use crate::{
    authority::serve::Pods,
    config::{LoadError, load_pods},
    lifecycle::{Look, WatchedFile},
};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The file, and what it listed when it was right.
pub(super) struct PodsFile {
    file: PathBuf,
    watched: WatchedFile,
    pods: Pods,
    due: Interval,
    /// A reload was asked for while the file was being written.
    asked: bool,
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
        Ok(Self { file, watched, pods: Arc::clone(pods), due, asked: false })
    }

    /// Waits for the time of the next [`PodsFile::look`]. Cancel safe.
    pub(super) async fn due(&mut self) {
        self.due.tick().await;
    }

    /// Takes what it lists once it has settled.
    pub(super) fn look(&mut self) {
        match self.watched.look() {
            Look::Settled => self.read(),
            Look::Same => self.asked = false,
            Look::Changing => {}
        }
    }

    /// Reads the file now, or once it has settled if it has just changed.
    pub(super) fn ask(&mut self) {
        self.asked = true;
        if !self.watched.has_changed() {
            self.read();
        }
    }

    /// Whether no reload that was asked for is still to be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.asked
    }

    /// What is not right changes nothing.
    fn read(&mut self) {
        // Written while it was read: a later look takes it.
        let Some(read) = self.watched.read(|| load_pods(&self.file)) else { return };
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
}
