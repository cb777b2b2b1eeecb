//! Every task has an owner, and every owner can end its tasks and wait for them.

use std::{future::Future, pin::pin, task::Context, time::Duration};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::{future::FutureExt as _, sync::CancellationToken, task::TaskTracker};

/// Tasks that live and die together: one `Tasks` per pod, per pool, per listener.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Wakes the task once others have had their turn and sockets that became ready meanwhile were
/// seen: one that wakes itself goes before those, again and again.
pub fn behind_others(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

impl Tasks {
    /// Runs `work` on the current runtime until it ends or [`Tasks::cut`] is called.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), work);
    }

    /// Runs `work` on `runtime` (a data worker's) until it ends or [`Tasks::cut`] is called.
    pub fn spawn_on(&self, runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
        // No wrapper here is an async block: that would hold the future twice.
        let work = work.with_cancellation_token_owned(self.stop.clone()).map(drop);
        self.tracker.spawn_on(work, runtime);
    }

    /// Tasks that end when these are cut, and can also be ended alone. The parent does not
    /// wait for them: whoever made the child does.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { tracker: TaskTracker::new(), stop: self.stop.child_token() }
    }

    /// How many tasks run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Drops all tasks where they stand; their destructors run (and record their closes).
    pub fn cut(&self) {
        self.stop.cancel();
    }

    /// Whether they were cut: what is spawned now is dropped at once.
    #[must_use]
    pub fn are_cut(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until all tasks have ended. Cancel safe.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Lets the tasks finish for up to `grace`, then cuts the rest. Returns how many were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        let finished = tokio::time::timeout(grace, self.ended()).await;
        let left = if finished.is_ok() { 0 } else { self.len() };
        self.cut();
        self.ended().await;
        left
    }
}
