//! What differs between the processes that serve.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use crate::{
    app::begun::Stop,
    lifecycle::{ServiceManager, WatchedFile},
    observe::Telemetry,
};

/// What has come of reading a file again.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::app) enum Reloaded {
    /// It says what it said, or there is none.
    Unchanged,
    /// What it says is in use, but for these settings: each with its key, its line and that it
    /// takes effect after a restart.
    Applied { after_restart: Vec<String> },
    /// It is wrong, and what was in use stays.
    Refused { file: String, error: String },
    /// It was written while it was read: nothing is taken, and a later look finds it settled.
    Changing,
}

/// What follows from news.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::app) enum Next {
    /// Nothing.
    Continue,
    /// Files are read again, as at SIGHUP.
    Reload,
    /// The process ends.
    Stop(Stop),
}

/// A process that takes nothing new.
pub(in crate::app) struct Draining {
    /// How many connections are open, and how long they have; none where nothing drains.
    pub(in crate::app) open: Option<(usize, Duration)>,
    /// How long all of it may take.
    pub(in crate::app) limit: Duration,
    /// What it still does, for people.
    pub(in crate::app) status: Box<dyn Fn() -> String>,
    /// Cuts what is left, and says so.
    pub(in crate::app) cut: Box<dyn FnMut()>,
    /// Ends with the last connection, and all that is cleared up then: how many were cut.
    pub(in crate::app) ended: LocalBoxFuture<'static, usize>,
}

/// What one kind of process does of its own.
pub(in crate::app) trait Role {
    /// What it waits for of its own.
    type News;

    /// The file whose settled change is a reload, if there is one.
    fn watched(&mut self) -> Option<&mut WatchedFile>;

    /// Reads the files again; `asked` if somebody asked for it, else its file has changed.
    ///
    /// # Cancel safety
    /// Dropped before it is done it has changed nothing of what its file says. The process ends
    /// then.
    async fn reload(&mut self, asked: bool) -> Reloaded;

    /// Somebody has asked for a reload, which follows.
    fn reloading(&mut self) {}

    /// The reload that somebody asked for has been done.
    fn reloaded(&mut self) {}

    /// What it waits for of its own. Cancel safe.
    async fn news(&mut self) -> Self::News;

    /// Does what follows from news.
    ///
    /// # Errors
    /// What ends the process.
    async fn heed(&mut self, news: Self::News, manager: &ServiceManager) -> anyhow::Result<Next>;

    /// What is due before anything is waited for.
    ///
    /// # Errors
    /// What ends the process.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// What is looked at every [`LOOK_EVERY`](super::LOOK_EVERY); `looks` counts.
    fn look(&mut self, _looks: u32) {}

    /// Forgets series that nobody has used for long.
    fn forget_unused(&self) {}

    /// Where its connections are counted.
    fn telemetry(&self) -> Option<&Telemetry> {
        None
    }

    /// SIGUSR2: starts the process after this one.
    fn start_successor(&mut self);

    /// Whether it is this process that tells the service manager.
    fn tells(&self) -> bool {
        true
    }

    /// What it does, and what it waits for until it is ready, for people.
    fn now(&self) -> (String, Option<String>);

    /// Whether all that a reload has begun is done.
    fn is_settled(&self) -> bool {
        true
    }

    /// Says at any time what is wrong with it, if anything is: not notifying the watchdog then.
    fn fault(&self) -> impl Fn() -> Option<String> + use<Self>;

    /// Takes nothing new from here on.
    async fn stop(self, stop: Stop) -> Draining;
}
