//! What the endpoints show, and whether the process is ready.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    form::Written,
    start_tasks::{StartTask, StartTasks},
    views::{Ambient, ConfigDump, NonTcpView, PodView},
};
use crate::{
    config::environment::Environment,
    identity::counted,
    mesh::source::xds::XdsStatus,
    observe::{Refusal, logging::Logging},
    pods::manager::NonTcpCounts,
    roles::node::Node,
    spiffe_api::federation::Federation,
};

/// As many pods whose network namespace does not exist are said beside readiness.
const MOST_ABSENT: usize = 8;

/// What the endpoints show.
pub struct State {
    pub(super) node: Arc<Node>,
    pub(super) source: Source,
    pub(super) logging: Logging,
    readiness: Mutex<Readiness>,
    /// Whether the mesh file is what is in force.
    pub file: Refusal,
    /// The metrics as last written, and when that began.
    pub(super) metrics: tokio::sync::Mutex<Written>,
    /// Held while a dump is written.
    pub(super) dumping: tokio::sync::Mutex<()>,
    /// How an ambient node's mesh is followed.
    control_plane: OnceLock<watch::Receiver<XdsStatus>>,
    /// What was counted of pods' traffic that is not TCP.
    non_tcp: OnceLock<Arc<NonTcpCounts>>,
    /// Cancelled when somebody has asked the process to end.
    pub(super) asked_to_stop: CancellationToken,
    /// Of an ambient node.
    pods: ArcSwap<Vec<PodView>>,
}

/// Where the mesh comes from, which makes a difference to what can be shown.
pub(super) enum Source {
    /// A file.
    File(Arc<Federation>),
    /// A control plane.
    Ambient(Arc<Environment>),
}

#[derive(Default)]
struct Readiness {
    loaded: bool,
    draining: bool,
    pending: Vec<String>,
    absent: Vec<String>,
    unprotected: Vec<String>,
    /// Of an ambient node.
    tasks: StartTasks,
    /// It was ready once.
    started: bool,
}

impl State {
    /// Of a node whose mesh comes from a file; not ready yet.
    #[must_use]
    pub fn new(node: Arc<Node>, federation: Arc<Federation>, logging: Logging) -> Self {
        Self::of(node, Source::File(federation), logging, Readiness::default())
    }

    /// Of an ambient node: ready once all its start tasks are done.
    #[must_use]
    pub fn ambient(node: Arc<Node>, environment: Arc<Environment>, logging: Logging) -> Self {
        let tasks = StartTasks::of(&environment);
        let readiness = Readiness { loaded: true, tasks, ..Readiness::default() };
        Self::of(node, Source::Ambient(environment), logging, readiness)
    }

    fn of(node: Arc<Node>, source: Source, logging: Logging, readiness: Readiness) -> Self {
        Self {
            node,
            source,
            logging,
            readiness: Mutex::new(readiness),
            file: Refusal::default(),
            metrics: tokio::sync::Mutex::default(),
            dumping: tokio::sync::Mutex::default(),
            control_plane: OnceLock::new(),
            non_tcp: OnceLock::new(),
            asked_to_stop: CancellationToken::new(),
            pods: ArcSwap::default(),
        }
    }

    /// The environment of an ambient node.
    pub(super) fn environment(&self) -> Option<&Arc<Environment>> {
        match &self.source {
            Source::Ambient(environment) => Some(environment),
            Source::File(_) => None,
        }
    }

    /// Says what a start task waits for.
    pub fn set_waiting(&self, task: StartTask, why: &str) {
        self.ready(|r| r.tasks.waits(task, why));
    }

    /// A start task is done, until it is said to wait again.
    pub fn set_done(&self, task: StartTask) {
        self.ready(|r| r.tasks.done(task));
    }

    /// Says which pods an ambient node has.
    pub fn set_pods(&self, pods: Vec<PodView>) {
        self.pods.store(Arc::new(pods));
    }

    /// Sets the source of the control plane's status, shown by `/config_dump`. Later calls have no
    /// effect.
    pub fn set_control_plane(&self, status: watch::Receiver<XdsStatus>) {
        let _ = self.control_plane.set(status);
    }

    /// Sets the source of the non-TCP packet counts, shown by `/config_dump`. Later calls have no
    /// effect.
    pub fn set_non_tcp(&self, counts: Arc<NonTcpCounts>) {
        let _ = self.non_tcp.set(counts);
    }

    /// What `/config_dump` shows.
    pub(super) fn dump(&self) -> ConfigDump {
        let pods = self.pods.load();
        let live = &self.node.telemetry.live;
        let ambient = self.environment();
        let pod_faults = self.ready(|r| r.unprotected.clone());
        let control_plane = self.control_plane.get().map(|status| status.borrow().clone());
        let ambient = ambient.map(|environment| Ambient {
            environment,
            pods: &pods,
            pod_faults,
            control_plane,
            live,
        });
        let (mesh, file) = (self.node.mesh.load(), self.file.get());
        let ejections = &self.node.endpoints;
        let dump = ConfigDump::of(&mesh, &self.node.svids, file, ambient.as_ref(), ejections);
        let judged = self.non_tcp.get().map(|counts| counts.all()).unwrap_or_default();
        ConfigDump { non_tcp: judged.iter().map(NonTcpView::of).collect(), ..dump }
    }

    /// Waits until somebody asks the process to end (`POST /quitquitquit`). Cancel safe.
    pub async fn asked_to_stop(&self) {
        self.asked_to_stop.cancelled().await;
    }

    /// The configuration is in force.
    pub fn set_loaded(&self) {
        self.ready(|r| r.loaded = true);
    }

    /// The process is stopping.
    pub fn set_draining(&self) {
        self.ready(|r| r.draining = true);
    }

    /// Pods that could not be started.
    pub fn set_pending(&self, pending: Vec<String>) {
        self.ready(|r| r.pending = pending);
    }

    /// Pods whose network namespace does not exist. They have no traffic, and may come later: they
    /// are said beside readiness, which does not wait for them.
    pub fn set_absent(&self, absent: Vec<String>) {
        self.ready(|r| r.absent = absent);
    }

    /// A line for each of those pods, and one for those that are too many.
    pub(super) fn absent(&self) -> String {
        self.ready(|r| {
            let named: String = r
                .absent
                .iter()
                .take(MOST_ABSENT)
                .map(|why| format!("not attached: {why}\n"))
                .collect();
            match r.absent.len().saturating_sub(MOST_ABSENT) {
                0 => named,
                more => format!("{named}not attached: {} more\n", counted(more, "pod")),
            }
        })
    }

    /// Names the pods whose capture rules are not those that adit applied, and why.
    pub fn set_unprotected(&self, unprotected: Vec<String>) {
        self.ready(|r| r.unprotected = unprotected);
    }

    /// What is waited for, if the process is not ready. Told as the readiness endpoint tells it.
    ///
    /// Beside a source that is down all is well until an identity in use has nothing left. At the
    /// start all pods must have theirs; a pod that comes later and gets none is not held against
    /// the others.
    ///
    /// An ambient node is ready once its start tasks are done. As with ztunnel, a pod that cannot be
    /// attached is what one of them waits for: the node is not ready until it is attached or has
    /// left. A pod whose rules or addresses are not as they should be stands in the dump and the log
    /// only, as it would else keep a whole node out of service.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let (waiting, started) = self.ready(|r| {
            let waiting = match (r.draining, r.loaded) {
                (true, _) => Some("draining".to_owned()),
                (_, false) => Some("configuration".to_owned()),
                _ if !r.tasks.are_done() => Some(r.tasks.to_string()),
                // Pods that cannot be attached are in the tasks; others keep no node from being ready.
                _ if self.environment().is_some() => None,
                _ => {
                    let all = [&r.pending[..], &r.unprotected[..]].concat();
                    (!all.is_empty()).then(|| all.join("; "))
                }
            };
            (waiting, r.started)
        });
        let without = || {
            self.environment().is_none().then_some(())?;
            let budget = self.node.svids.outage_budget();
            let without = if started { budget.lost } else { budget.without };
            Some(without.join("; ")).filter(|without| !without.is_empty())
        };
        let waiting = waiting.or_else(without);
        if waiting.is_none() {
            self.ready(|r| r.started = true);
        }
        waiting
    }

    fn ready<T>(&self, look: impl FnOnce(&mut Readiness) -> T) -> T {
        look(&mut self.readiness.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
