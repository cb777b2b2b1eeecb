//! The watchdog of the service manager is fed while the data path answers, and not because a
//! timer runs.

use std::{convert::Infallible, future::pending, time::Duration};

use futures_util::future::join_all;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::lifecycle::{ServiceManager, Tasks};

/// Feeds it twice in its time for as long as all is well: whoever polls this turns, each worker
/// answers, and `fault` names nothing. Never returns; where there is no watchdog, nothing is done.
pub(in crate::app) async fn feed(
    manager: &ServiceManager,
    workers: &[Handle],
    fault: impl Fn() -> Option<String>,
) -> Infallible {
    let Some(limit) = manager.watchdog() else { return pending().await };
    let (half, tasks) = (limit / 2, Tasks::default());
    let mut turns = tokio::time::interval(half);
    let mut well = true;
    loop {
        turns.tick().await;
        let answered = match answers(&tasks, workers, half).await {
            Ok(()) => fault().map_or(Ok(()), Err),
            Err(why) => Err(why),
        };
        match &answered {
            Ok(()) => manager.alive(),
            Err(why) if well => tracing::error!(why, "not notifying the watchdog"),
            Err(_) => {}
        }
        well = answered.is_ok();
    }
}

/// Whether each worker runs a task within the limit.
async fn answers(tasks: &Tasks, workers: &[Handle], limit: Duration) -> Result<(), String> {
    let pings = workers.iter().enumerate().map(|(n, worker)| async move {
        let (say, said) = oneshot::channel();
        tasks.spawn_on(worker, async move {
            let _ = say.send(());
        });
        match timeout(limit, said).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(format!("worker {n} has not answered within {limit:?}")),
        }
    });
    join_all(pings).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::workers::Workers;

    #[tokio::test]
    async fn a_worker_that_is_stuck_is_noticed() {
        let workers = Workers::start(2).unwrap();
        let (tasks, limit) = (Tasks::default(), Duration::from_millis(200));
        answers(&tasks, &workers.handles, limit).await.unwrap();
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        tasks.spawn_on(&workers.handles[1], async move {
            let _ = stuck.recv();
        });
        let why = answers(&tasks, &workers.handles, limit).await.unwrap_err();
        assert!(why.contains("worker 1"), "{why}");
        drop(release);
        answers(&tasks, &workers.handles, Duration::from_secs(10)).await.unwrap();
    }
}
