//! When files are read again: once they have settled, whoever asks.

use std::time::Duration;

use tokio::time::Instant;

use super::role::{Reloaded, Role};
use crate::{
    app::process::readiness::Readiness,
    lifecycle::{Look, ServiceManager, WatchedFile},
};

/// How often it is looked what has changed: an edit that two looks find alike is in use within a
/// second.
pub(in crate::app) const LOOK_EVERY: Duration = Duration::from_millis(LOOK_MILLIS as u64);

const LOOK_MILLIS: u32 = 400;

/// How many looks there are in so much time.
#[allow(clippy::cast_possible_truncation, reason = "minutes")]
pub(in crate::app) const fn looks_in(time: Duration) -> u32 {
    time.as_millis() as u32 / LOOK_MILLIS
}

/// For how long somebody who asks for a reload waits for a file that is being written.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// Whether somebody has asked for a reload that has not been done yet.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    asked: Option<Instant>,
}

impl Reloads {
    pub(super) fn are_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Somebody asks: whether it is to be done now. A file that somebody may be writing is waited
    /// for.
    pub(super) fn ask(
        &mut self,
        role: &mut impl Role,
        told: &mut Readiness,
        manager: &ServiceManager,
    ) -> bool {
        if self.asked.is_none() {
            self.asked = Some(Instant::now());
            told.reloading(manager);
            role.reloading();
        }
        !role.watched().is_some_and(|file| file.has_changed())
    }

    /// Looks at the file: whether it is to be read now.
    pub(super) fn look(&mut self, role: &mut impl Role) -> bool {
        let due = match role.watched().map(WatchedFile::look) {
            Some(Look::Settled) => true,
            Some(Look::Same) | None => self.are_asked(),
            Some(Look::Changing) => false,
        };
        if !due && self.asked.is_some_and(|asked| asked.elapsed() > SETTLES_WITHIN) {
            tracing::error!(
                "a file has been changing for {SETTLES_WITHIN:?}: adit reads it once it stops \
                 changing"
            );
            self.end(role);
        }
        due
    }

    /// It has been done.
    pub(super) fn end(&mut self, role: &mut impl Role) {
        if self.asked.take().is_some() {
            role.reloaded();
        }
    }
}

/// Says what has come of a reload: whether it is done.
pub(super) fn take(reloaded: Reloaded) -> bool {
    match reloaded {
        Reloaded::Changing => return false,
        Reloaded::Unchanged => {}
        Reloaded::Refused { file, error } => {
            tracing::error!(%file, error, "configuration rejected, keeping the previous one");
        }
        Reloaded::Applied { after_restart } => {
            after_restart.iter().for_each(|setting| tracing::warn!("{setting}"));
        }
    }
    true
}
