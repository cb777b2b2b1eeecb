//! `adit run`: a mesh from one file, until SIGTERM.

mod live;
mod role;
mod start;

use std::{path::Path, sync::Arc};

use tokio::runtime::Builder;

use self::start::{Early, sockmap, start};
use super::{
    frame::{Frame, Takeover},
    needs::confine_node,
    process::self_exec::SelfExec,
    rights::may_enter,
    workers::Workers,
};
use crate::{
    authority::CaError,
    config::{self, LoadError},
    lifecycle::{Listeners, Tasks, WatchedFile},
    observe::logging::Logging,
};

/// Why `adit run` did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The mesh file.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// A file or folder that it names.
    #[error("{0:#}")]
    Named(anyhow::Error),
    /// Anything else.
    #[error("{0:#}")]
    Start(anyhow::Error),
}

impl From<anyhow::Error> for RunError {
    fn from(error: anyhow::Error) -> Self {
        match error.is::<LoadError>() || error.is::<CaError>() {
            true => Self::Named(error),
            false => Self::Start(error),
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until another process has taken over, then drains. `takeover`
/// is where the process before this one is found, and where the one after it finds this one.
///
/// # Errors
/// If it cannot start; once it runs, a bad edit of the file is logged and changes nothing.
pub fn run(file: &Path, takeover: Option<&Path>) -> Result<(), RunError> {
    let self_exec = SelfExec::now();
    // Before the file is read: an edit in between is then seen as one.
    let watched = WatchedFile::new(file);
    let checked = config::load(file)?;
    may_enter(&checked.local_workloads())?;
    let sockmap = sockmap(&checked.local_workloads());
    let _ = crate::sys::reuseport::prepare();
    let confined = confine_node(&checked, takeover).map_err(anyhow::Error::msg)?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let logging = Logging::start(checked.settings.log_format, &filter)
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    crate::sys::process::harden();
    crate::tls::record::choose(checked.settings.aead).map_err(anyhow::Error::msg)?;
    let (takeover, inherited) = Takeover::find(takeover, self_exec)?;
    let listeners = Arc::new(inherited.map_or_else(Listeners::default, Listeners::inheriting));
    let data = Workers::start(checked.settings.workers)?;
    confined.log();
    let control =
        Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let (file, workers) = (file.to_owned(), data.handles.clone());
    let early =
        Early { file, watched, checked, logging, confined, sockmap, workers, takeover, listeners };
    let ran = control.block_on(serve(early));
    // A file that is still being read keeps nothing from ending.
    control.shutdown_background();
    drop(data);
    Ok(ran?)
}

async fn serve(early: Early) -> anyhow::Result<()> {
    let frame = Frame::new(early.workers.clone())?;
    let live = start(early, &Tasks::default()).await?;
    frame.run(live).await.map(drop)
}
