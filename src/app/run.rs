//! `adit run`: a mesh from one file, until SIGTERM.

mod live;
mod start;
mod takeover;

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::runtime::{Builder, Handle};

use self::{
    live::Live,
    start::{Early, short_way, start},
    takeover::{Other, Takeover},
};
use super::{
    begun::Stop,
    memory_trimmer::MemoryTrimmer,
    needs::confine_node,
    pod_manager::Leave,
    process::{
        readiness::Readiness,
        self_exec::SelfExec,
        signals::{Asked, Signals},
        watchdog,
    },
    rights::may_enter,
    workers::Workers,
};
use crate::{
    authority::CaError,
    config::{self, LoadError},
    lifecycle::{ServiceManager, Tasks, WatchedFile},
    node::Node,
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
    let sockmap = short_way(&checked.local_workloads());
    let confined = confine_node(&checked, takeover).map_err(anyhow::Error::msg)?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let logging = Logging::start(checked.settings.log_format, &filter)
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    crate::sys::process::harden();
    crate::tls::record::choose(checked.settings.aead).map_err(anyhow::Error::msg)?;
    let (takeover, listeners) = Takeover::find(takeover, self_exec)?;
    let data = Workers::start(checked.settings.workers)?;
    confined.log();
    let control =
        Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let (file, workers) = (file.to_owned(), data.handles.clone());
    let early =
        Early { file, watched, checked, logging, confined, sockmap, workers, takeover, listeners };
    let ran = control.block_on(serve(early));
    drop(data);
    Ok(ran?)
}

async fn serve(early: Early) -> anyhow::Result<()> {
    // From here on a signal is waited for, not fatal.
    let mut signals = Signals::new()?;
    let manager = ServiceManager::default();
    let tasks = Tasks::default();
    let workers = early.workers.clone();
    let mut live = start(early, &tasks).await?;
    let (stop, leave) = until_stopped(&mut live, &mut signals, &manager, &workers).await?;
    tracing::info!(grace = ?live.grace, "{}", stop.words());
    live.state.set_draining();
    live.takeover.close().await;
    let succeeded = matches!(stop, Stop::Succeeded(_));
    if !succeeded {
        manager.stopping(&draining(&live.node), live.grace + RELEASE_WITHIN);
    }
    live.carrier.close();
    let node = Arc::clone(&live.node);
    let hurry = live.carrier.hurry.clone();
    let mut watch = tokio::time::interval(LOOK_EVERY);
    let mut fed = std::pin::pin!(watchdog::feed(&manager, &workers, || None));
    let mut stopped = std::pin::pin!(async {
        // What is being started ends at once, and is stopped with the rest.
        while live.starting.next().await.is_some() {}
        live.carrier.stop_all(live.grace, &leave).await;
    });
    loop {
        tokio::select! {
            () = &mut stopped => break,
            never = &mut fed => match never {},
            _ = watch.tick(), if !succeeded => manager.status(&draining(&node)),
            () = signals.cut() => {
                tracing::warn!("SIGINT while draining: not waiting for connections");
                hurry.cancel();
            }
        }
    }
    tasks.cut();
    tasks.ended().await;
    Ok(())
}

/// Carries what the file says, until this process is to stop: why, and what it leaves of the
/// capture rules.
///
/// # Errors
/// If it cannot take the place of the process before it.
async fn until_stopped(
    live: &mut Live,
    signals: &mut Signals,
    manager: &ServiceManager,
    workers: &[Handle],
) -> anyhow::Result<(Stop, Leave)> {
    let mut told = Readiness::new(manager);
    let mut watch = tokio::time::interval(LOOK_EVERY);
    let mut ticks = 0_u32;
    let mut ebb = MemoryTrimmer::default();
    let mut fed = std::pin::pin!(watchdog::feed(manager, workers, || None));
    loop {
        if live.can_take_over()? {
            live.take_over().await?;
        }
        if !live.takeover.waits() {
            told.look(manager, live.starting.is_empty(), || live.now());
        }
        tokio::select! {
            never = &mut fed => match never {},
            asked = signals.next() => match asked {
                Asked::Stop(why) => return Ok((why, live.leaves())),
                Asked::Reload => {
                    told.reloading(manager);
                    live.reload();
                }
                Asked::Upgrade => live.takeover.start_successor(),
            },
            other = live.takeover.next() => match other {
                Other::Gone => live.take_over().await?,
                Other::Accepts(successor) => {
                    let pid = successor.pid;
                    return Ok((Stop::Succeeded(pid), live.hand_over(successor, manager).await));
                }
            },
            Some(changed) = live.starting.next() => live.started(changed),
            () = live.carrier.any_moved() => live.start_pods(),
            _ = watch.tick() => {
                ticks = ticks.wrapping_add(1);
                ebb.look(&live.node.telemetry.live);
                live.state.set_unprotected(live.carrier.unprotected());
                if ticks.is_multiple_of(LOOKS_IN_TEN_MINUTES) {
                    live.forget_unused();
                }
                if live.watched.has_settled() {
                    live.reload();
                } else if ticks.is_multiple_of(10) && !live.failed.is_empty() {
                    live.start_pods();
                }
            }
        }
    }
}

/// How often it is looked what has changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long capture rules and what is left may take after the connections.
const RELEASE_WITHIN: Duration = Duration::from_secs(15);

/// What a node that stops still does, for people.
fn draining(node: &Node) -> String {
    format!("draining: {} connections", node.telemetry.live.len())
}

/// At two looks a second.
const LOOKS_IN_TEN_MINUTES: u32 = 1200;
