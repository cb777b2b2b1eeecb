//! The end: no new connections, the open ones go on for a while, then they are cut.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::interval;

use crate::{
    app::process::signals::Signals,
    lifecycle::ServiceManager,
    standalone::{Service, status::Status},
};

/// How often the service manager is told who still holds connections.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Waits for the connections of `services`, at most for `grace`, or until SIGINT says that it
/// takes too long: how many were cut. The configuration is not read again
/// meanwhile; certificates, roots and CRLs are.
pub(super) async fn drain(
    services: &[Arc<Service>],
    grace: Duration,
    signals: &mut Signals,
    manager: &ServiceManager,
    status: &Status,
) -> usize {
    let all = join_all(services.iter().map(|service| service.drain(grace)));
    let mut drained = std::pin::pin!(all);
    let mut told = interval(TELL_EVERY);
    let mut hurried = 0;
    loop {
        tokio::select! {
            cut = &mut drained => return hurried + cut.into_iter().sum::<usize>(),
            () = signals.cut() => {
                hurried += services.iter().map(|service| service.cut()).sum::<usize>();
                tracing::warn!(connections = hurried, "SIGINT while draining: cut at once");
            }
            _ = told.tick() => manager.status(&status.one_line()),
        }
    }
}
