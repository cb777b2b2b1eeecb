//! The signals that a process waits for, from the moment it has made this.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::begun::Stop;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::app) enum Asked {
    /// SIGTERM or SIGINT.
    Stop(Stop),
    /// SIGHUP or SIGUSR1.
    Reload,
    /// SIGUSR2.
    Upgrade,
}

/// The signals that are waited for. None of them ends the process by itself.
pub(in crate::app) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
    upgrade: Signal,
}

impl Signals {
    /// From here on they are waited for. Needs a running runtime.
    pub(in crate::app) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one. Cancel safe.
    pub(in crate::app) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop(Stop::Terminate),
            _ = self.interrupt.recv() => Asked::Stop(Stop::Interrupt),
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Reload,
            _ = self.upgrade.recv() => Asked::Upgrade,
        }
    }

    /// The next that asks for an end; the others wait for [`Signals::next`]. Cancel safe.
    pub(in crate::app) async fn stop(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }

    /// The next that asks a process which drains to cut what is left; what the others asked for is
    /// answered in the log. Cancel safe.
    pub(in crate::app) async fn cut(&mut self) {
        loop {
            match self.next().await {
                Asked::Stop(Stop::Interrupt) => return,
                Asked::Stop(_) => {
                    tracing::info!("already draining; SIGINT (Ctrl-C) closes connections now")
                }
                Asked::Reload => tracing::info!("draining: reload ignored"),
                Asked::Upgrade => tracing::info!("draining: SIGUSR2 ignored"),
            }
        }
    }
}
