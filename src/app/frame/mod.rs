//! The one loop of every process that serves: signals, files that have changed, the service
//! manager and its watchdog, and the end. A [`Role`] says what differs.

mod drain;
mod reload;
mod role;
mod takeover;

use std::{io, time::Duration};

use tokio::{runtime::Handle, time::MissedTickBehavior};

pub(super) use reload::{LOOK_EVERY, looks_in};
pub(super) use role::{Draining, Next, Reloaded, Role};
pub(super) use takeover::{HandedOver, Other, Takeover};

use self::{
    drain::drain,
    reload::{Reloads, take},
};
use super::{
    begun::Stop,
    memory_trimmer::MemoryTrimmer,
    process::{
        readiness::Readiness,
        signals::{Asked, Signals},
        watchdog,
    },
};
use crate::lifecycle::ServiceManager;

const LOOKS_IN_TEN_MINUTES: u32 = looks_in(Duration::from_secs(600));

/// What a process has around it from its start on.
pub(super) struct Frame {
    pub(super) signals: Signals,
    manager: ServiceManager,
    workers: Vec<Handle>,
}

impl Frame {
    /// From here on a signal is waited for, not fatal. `workers` answer the watchdog. Needs a
    /// running runtime.
    ///
    /// # Errors
    /// If signals cannot be waited for.
    pub(super) fn new(workers: Vec<Handle>) -> io::Result<Self> {
        Ok(Self { signals: Signals::new()?, manager: ServiceManager::default(), workers })
    }

    /// Serves until this process is to stop, and drains: how many connections were cut.
    ///
    /// # Errors
    /// What ends it early, as the role says.
    pub(super) async fn run<R: Role>(mut self, mut role: R) -> anyhow::Result<usize> {
        let fault = role.fault();
        let manager = &self.manager;
        let served = async {
            let stop = until_stopped(&mut role, &mut self.signals, manager).await?;
            let cut = drain(role, stop, &mut self.signals, manager).await;
            if cut > 0 {
                let closed = crate::identity::counted(cut, "connection");
                tracing::warn!(connections = cut, "closed {closed} that did not finish in time");
            }
            tracing::info!(cut, "adit has ended");
            Ok(cut)
        };
        tokio::select! {
            cut = served => cut,
            never = watchdog::feed(manager, &self.workers, fault) => match never {},
        }
    }
}

/// Serves until this process is to stop: why.
///
/// # Errors
/// As [`Frame::run`].
async fn until_stopped(
    role: &mut impl Role,
    signals: &mut Signals,
    manager: &ServiceManager,
) -> anyhow::Result<Stop> {
    let mut told = Readiness::new(manager);
    let mut reloads = Reloads::default();
    let (mut trimmer, mut looks) = (MemoryTrimmer::default(), 0_u32);
    let mut look = tokio::time::interval(LOOK_EVERY);
    // What two looks find alike has stood still for as long as is between them.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        role.prepare().await?;
        if role.tells() {
            let settled = role.is_settled() && !reloads.are_asked();
            told.look(manager, settled, || role.now());
        }
        let due = tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(why) => return Ok(why),
                Asked::Upgrade => {
                    role.start_successor();
                    false
                }
                Asked::Reload => reloads.ask(role, &mut told, manager),
            },
            news = role.news() => match role.heed(news, manager).await? {
                Next::Continue => false,
                Next::Reload => reloads.ask(role, &mut told, manager),
                Next::Stop(why) => return Ok(why),
            },
            _ = look.tick() => {
                looks = looks.wrapping_add(1);
                if let Some(telemetry) = role.telemetry() {
                    trimmer.look(&telemetry.live);
                }
                role.look(looks);
                if looks.is_multiple_of(LOOKS_IN_TEN_MINUTES) {
                    role.forget_unused();
                }
                reloads.look(role)
            }
        };
        if due {
            let reloaded = tokio::select! {
                reloaded = role.reload(reloads.are_asked()) => reloaded,
                why = signals.stop() => return Ok(why),
            };
            if take(reloaded) {
                reloads.end(role);
            }
        }
    }
}
