//! Capture rules of one namespace are changed one after the other, so that no task removes what a
//! later one applied. Namespaces do not wait for each other.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::blocking,
    mesh::NonTcp,
    pods::capture::{self, CaptureError, Options, Redirects, Refused, Standing},
    sys::netns::Netns,
};

/// In how many namespaces rules are changed at once …
const AT_ONCE: usize = 16;
/// … and in how many of those where a tool has hung: others do not wait for them.
const HUNG_AT_ONCE: usize = 2;

/// Whose turn it is to change rules.
pub(crate) struct Turns {
    namespaces: Mutex<HashMap<(u64, u64), Arc<Namespace>>>,
    places: Semaphore,
    places_of_hung: Semaphore,
}

#[derive(Default)]
struct Namespace {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether the last tool in it hung.
    hung: AtomicBool,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            namespaces: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            places_of_hung: Semaphore::new(HUNG_AT_ONCE),
        }
    }
}

impl Turns {
    /// Waits for the turn in this namespace.
    ///
    /// # Errors
    /// If `stop` fires first.
    pub(crate) async fn take<'a>(
        &'a self,
        netns: &Netns,
        stop: &'a CancellationToken,
    ) -> anyhow::Result<Turn<'a>> {
        let namespace = self.of(netns.key());
        let places = match namespace.hung.load(Ordering::Relaxed) {
            true => &self.places_of_hung,
            false => &self.places,
        };
        let taken = async {
            let mine = Arc::clone(&namespace.turn).lock_owned().await;
            Ok::<_, anyhow::Error>((mine, places.acquire().await?))
        };
        let (_mine, _place) = tokio::select! {
            biased;
            () = stop.cancelled() => anyhow::bail!("adit is shutting down"),
            taken = taken => taken?,
        };
        Ok(Turn { namespace, _mine, _place, stop })
    }

    fn of(&self, key: (u64, u64)) -> Arc<Namespace> {
        let mut all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let used = |namespace: &Arc<Namespace>| {
            Arc::strong_count(namespace) > 1 || namespace.hung.load(Ordering::Relaxed)
        };
        all.retain(|of, namespace| *of == key || used(namespace));
        Arc::clone(all.entry(key).or_default())
    }
}

/// A turn; the next one comes when it is dropped.
pub(crate) struct Turn<'a> {
    namespace: Arc<Namespace>,
    _mine: OwnedMutexGuard<()>,
    _place: SemaphorePermit<'a>,
    stop: &'a CancellationToken,
}

impl Turn<'_> {
    /// Applies the rules. What they then let by, and why that is less than it should be.
    pub(crate) async fn apply(
        &mut self,
        netns: &Arc<Netns>,
        wanted: Options,
    ) -> anyhow::Result<(Options, Option<anyhow::Error>)> {
        let (mut options, mut less) = (wanted, None);
        if wanted.kubelet_probes {
            let admitting = Arc::clone(netns);
            match self.tool(move |stop| capture::guard_probes(&admitting, stop)).await {
                Ok(()) => {}
                Err(error) if self.hung() => return Err(error),
                Err(error) => {
                    options.kubelet_probes = false;
                    less = Some(error.context(
                        "the kubelet's probes are not allowed, because the node cannot protect \
                         their address from others",
                    ));
                }
            }
        }
        let of = Arc::clone(netns);
        if let Err(error) = self.tool(move |stop| capture::apply(&of, options, stop)).await {
            if !self.hung() {
                self.after_a_failure(netns, options).await;
            }
            return Err(error);
        }
        Ok((options, less))
    }

    /// What stands there.
    pub(crate) async fn standing(&mut self, netns: &Arc<Netns>) -> anyhow::Result<Standing> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| Standing::look(&netns, stop)).await
    }

    /// Which redirections of others stand there.
    pub(crate) async fn redirects(&mut self, netns: &Arc<Netns>) -> anyhow::Result<Redirects> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| Redirects::look(&netns, stop)).await
    }

    /// Refuses plaintext beside the redirections of others, in these families.
    pub(crate) async fn refuse(
        &mut self,
        netns: &Arc<Netns>,
        families: [Option<Refused>; 2],
    ) -> anyhow::Result<()> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| capture::refuse_plaintext(&netns, families, stop)).await
    }

    /// Lets it by.
    pub(crate) async fn admit(&mut self, netns: &Arc<Netns>) -> anyhow::Result<()> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| capture::admit_plaintext(&netns, stop)).await
    }

    /// Removes what stands there of a pod that others redirect.
    pub(crate) async fn leave(&mut self, netns: &Arc<Netns>) -> anyhow::Result<()> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| capture::leave(&netns, stop)).await
    }

    /// Sets what happens to non-TCP traffic.
    pub(crate) async fn judge_non_tcp(
        &mut self,
        netns: &Arc<Netns>,
        verdict: NonTcp,
    ) -> anyhow::Result<()> {
        let netns = Arc::clone(netns);
        self.tool(move |stop| capture::judge_non_tcp(&netns, verdict, stop)).await
    }

    /// Blocks plaintext, and drops non-TCP traffic, where `options` say so, of a pod that could not
    /// be captured.
    async fn after_a_failure(&mut self, netns: &Arc<Netns>, options: Options) {
        let (netns, uncarried) = (Arc::clone(netns), netns);
        let done = match (options.strict, options.kubelet_probes) {
            (true, _) => self.shut(netns, Options { kubelet_probes: false, ..options }).await,
            (false, true) => self.tool(move |stop| capture::reconsider_guard(&netns, stop)).await,
            (false, false) => Ok(()),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the cleanup also failed");
        }
        // What is to be dropped is, whoever is carried.
        if options.non_tcp == NonTcp::Drop
            && let Err(error) = self.judge_non_tcp(uncarried, NonTcp::Drop).await
        {
            tracing::warn!(
                %error,
                "traffic other than TCP is not dropped in a pod that is not attached"
            );
        }
    }

    /// Blocks plaintext in a namespace in which no pod is attached.
    pub(crate) async fn shut(&mut self, netns: Arc<Netns>, options: Options) -> anyhow::Result<()> {
        self.tool(move |stop| capture::shut(&netns, options, stop)).await
    }

    /// Removes them.
    pub(crate) async fn remove(&mut self, netns: Arc<Netns>) -> anyhow::Result<()> {
        self.tool(move |stop| capture::remove(&netns, stop)).await
    }

    async fn tool<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&CancellationToken) -> Result<T, CaptureError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let stop = self.stop.clone();
        let done = blocking(move || work(&stop)).await?;
        let hung = matches!(done, Err(CaptureError::Hung { .. }));
        self.namespace.hung.store(hung, Ordering::Relaxed);
        Ok(done?)
    }

    fn hung(&self) -> bool {
        self.namespace.hung.load(Ordering::Relaxed)
    }
}
