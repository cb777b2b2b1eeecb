//! The end: nothing new is taken, what is open goes on for a while, then it is cut.

use std::time::Duration;

use super::role::{Draining, Role};
use crate::{
    app::{begun::Stop, process::signals::Signals},
    lifecycle::ServiceManager,
};

/// How often the service manager is told who still holds connections.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Waits until all has ended: how many connections were cut. SIGINT cuts. Nothing is read again
/// meanwhile but what says who is trusted.
pub(super) async fn drain(
    role: impl Role,
    stop: Stop,
    signals: &mut Signals,
    manager: &ServiceManager,
) -> usize {
    let Draining { open, limit, status, mut cut, mut ended } = role.stop(stop).await;
    // What the service manager hears is the successor's to say.
    let tells = !matches!(stop, Stop::Succeeded(_));
    if tells {
        manager.stopping(&status(), limit);
    }
    if let Some((connections, grace)) = open {
        tracing::info!(connections, ?grace, "{}", stop.words(connections, grace));
    }
    let mut told = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            cut = &mut ended => return cut,
            () = signals.cut() => cut(),
            _ = told.tick(), if tells && open.is_some() => manager.status(&status()),
        }
    }
}
