//! Capture rules are changed one after the other, so that no task removes what a later one applied.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::aside,
    node::capture::{self, CaptureError, Options, Standing},
    sys::netns::Netns,
};

/// After a tool has hung, other pods fail at once for this long instead of waiting for it too: it
/// would hold up what needs no tool.
const AFTER_A_HANG: Duration = Duration::from_secs(3);

/// Whose turn it is to change rules.
#[derive(Default)]
pub(super) struct Turns(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    hung: Option<Instant>,
}

impl Turns {
    /// Waits for the turn.
    ///
    /// # Errors
    /// If `stop` fires first, or a tool has hung a moment ago.
    pub(super) async fn take<'a>(
        &'a self,
        stop: &'a CancellationToken,
    ) -> anyhow::Result<Turn<'a>> {
        let seen = tokio::select! {
            biased;
            () = stop.cancelled() => anyhow::bail!("adit stops"),
            seen = self.0.lock() => seen,
        };
        if seen.hung.is_some_and(|at| at.elapsed() < AFTER_A_HANG) {
            anyhow::bail!("waits for its capture rules, as nft hangs");
        }
        Ok(Turn { seen, stop })
    }
}

/// A turn; the next one comes when it is dropped.
pub(super) struct Turn<'a> {
    seen: MutexGuard<'a, Seen>,
    stop: &'a CancellationToken,
}

impl Turn<'_> {
    /// Applies the rules. What they then let by, and why that is less than it should be.
    pub(super) async fn apply(
        &mut self,
        netns: &Arc<Netns>,
        wanted: Options,
    ) -> anyhow::Result<(Options, Option<anyhow::Error>)> {
        let (mut options, mut less) = (wanted, None);
        if wanted.kubelet_probes {
            let admitting = Arc::clone(netns);
            match self.tool(move |stop| capture::guard_probes(&admitting, stop)).await {
                Ok(()) => {}
                Err(error) if self.seen.hung.is_some() => return Err(error),
                Err(error) => {
                    options.kubelet_probes = false;
                    less = Some(error.context(
                        "the kubelet's probes are not admitted, as the node cannot keep others \
                         from their address",
                    ));
                }
            }
        }
        let of = Arc::clone(netns);
        if let Err(error) = self.tool(move |stop| capture::apply(&of, options, stop)).await {
            if self.seen.hung.is_none() {
                self.after_a_failure(netns, options).await;
            }
            return Err(error);
        }
        Ok((options, less))
    }

    /// What stands there.
    pub(super) async fn standing(&mut self, netns: &Arc<Netns>) -> anyhow::Result<Standing> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| Standing::look(&netns, stop)).await
    }

    /// Who cannot be carried is closed to plaintext all the same.
    async fn after_a_failure(&mut self, netns: &Arc<Netns>, options: Options) {
        let netns = Arc::clone(netns);
        let done = match (options.strict, options.kubelet_probes) {
            (true, _) => self.shut(netns, Options { kubelet_probes: false, ..options }).await,
            (false, true) => self.tool(move |stop| capture::reconsider_guard(&netns, stop)).await,
            (false, false) => Ok(()),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "nor can the rest be done");
        }
    }

    /// Applies what keeps plaintext out of a namespace that nobody is carried in.
    pub(super) async fn shut(&mut self, netns: Arc<Netns>, options: Options) -> anyhow::Result<()> {
        self.tool(move |stop| capture::shut(&netns, options, stop)).await
    }

    /// Restores the node's rules that these namespaces need; whether they were gone.
    pub(super) async fn restore_guard(
        &mut self,
        admitting: Vec<Arc<Netns>>,
    ) -> anyhow::Result<bool> {
        self.tool(move |stop| capture::restore_guard(&admitting, stop)).await
    }

    /// Removes them.
    pub(super) async fn remove(&mut self, netns: Arc<Netns>) -> anyhow::Result<()> {
        self.tool(move |stop| capture::remove(&netns, stop)).await
    }

    async fn tool<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&CancellationToken) -> Result<T, CaptureError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let stop = self.stop.clone();
        let done = aside(move || work(&stop)).await?;
        self.seen.hung = matches!(done, Err(CaptureError::Hung { .. })).then(Instant::now);
        Ok(done?)
    }
}
