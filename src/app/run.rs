//! `adit run`: a mesh from one file, until SIGTERM.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::runtime::{Builder, Handle};

use super::{
    begun::ENDS,
    carrier::{Carrier, Changed, Failed},
    ebb::Ebb,
    needs::{confine_node, is_of_process},
    probed::watch_probes,
    process::{
        readiness::Readiness,
        sandbox::Confined,
        signals::{Asked, Signals},
        watchdog,
    },
    rights::may_enter,
    source,
    workers::Workers,
    workload_api::Served,
};
use crate::{
    admin::{self, State},
    ca::{
        CaError, Svids,
        federation::{self, Federation},
    },
    config::{self, CaConfig, Checked, Fault, LoadError},
    lifecycle::{Listeners, ServiceManager, Tasks, WatchedFile},
    mesh::{AppHop, Store, Workload},
    node::{Node, guard, recheck},
    observe::{Telemetry, logging::Logging, metrics::KEPT},
    sys::sockmap::Sockmap,
    tunnel::{HBONE_PORT, LiveTunnels},
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

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// If it cannot start; once it runs, a bad edit of the file is logged and changes nothing.
pub fn run(file: &Path) -> Result<(), RunError> {
    // Before the file is read: an edit in between is then seen as one.
    let watched = WatchedFile::new(file);
    let checked = config::load(file)?;
    may_enter(&checked.local_workloads())?;
    let sockmap = short_way(&checked.local_workloads());
    let confined = confine_node(&checked).map_err(anyhow::Error::msg)?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let logging = Logging::start(checked.settings.log_format, &filter)
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    crate::sys::process::harden();
    crate::tls::record::choose(checked.settings.aead).map_err(anyhow::Error::msg)?;
    let workers = Workers::start(checked.settings.workers)?;
    confined.log();
    let control =
        Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let early = Early { logging, confined, sockmap };
    let ran = control.block_on(serve(file, watched, checked, early, workers.handles.clone()));
    drop(workers);
    Ok(ran?)
}

/// What is there before the first thread.
struct Early {
    logging: Logging,
    confined: Confined,
    sockmap: Option<io::Result<Arc<Sockmap>>>,
}

async fn serve(
    file: &Path,
    watched: WatchedFile,
    checked: Checked,
    early: Early,
    workers: Vec<Handle>,
) -> anyhow::Result<()> {
    // From here on a signal is waited for, not fatal.
    let mut signals = Signals::new()?;
    let manager = ServiceManager::default();
    let mut told = Readiness::new(&manager);
    let telemetry = Telemetry::new()?;
    let trust_domain = checked.mesh.trust_domain.clone();
    let ca = source::open(&checked.ca, &trust_domain)?;
    let tasks = Tasks::default();
    let federated = Arc::new(Federation::new(
        trust_domain.clone(),
        ca.bundles(),
        checked.federation.state_dir.as_deref(),
        Arc::clone(&telemetry.metrics),
        tasks.child(),
    ));
    federated.apply(&checked.federation.trust_domains);
    let svids = Svids::new(ca, Arc::clone(&telemetry.metrics), tasks.child());
    let svids = Arc::new(svids.trusting(federated.bundles()));
    let listeners = Arc::<Listeners>::default();
    let both = [&tasks; 2];
    federation::serve(&checked.federation.serve, &trust_domain, &svids, &listeners, both).await?;
    let tunnels = LiveTunnels::new(svids.watch_bundles(), svids.watch_banned());
    let wanted = checked.local_workloads();
    let Checked {
        mesh,
        node: _,
        places: _,
        settings,
        capture,
        workload_api,
        warnings,
        ca: ca_config,
        federation,
        sections: _,
        lines: _,
    } = checked;
    warnings.iter().for_each(|w| tracing::warn!(file = %crate::identity::shown(file), "{w}"));
    let store = mesh.store();
    let node = Arc::new(Node {
        pods: Arc::default(),
        mesh: ArcSwap::from_pointee(store.view()),
        svids,
        tunnels: Arc::new(tunnels),
        telemetry,
        tunnel: settings.tunnel.clone(),
        idle: settings.idle,
        sockmap: early.sockmap.and_then(taken),
        workers: workers.clone(),
        listeners,
    });
    tasks.spawn(guard(Arc::clone(&node)));
    let state = Arc::new(State::new(Arc::clone(&node), Arc::clone(&federated), early.logging));
    admin::serve(&state, &settings, &tasks, &tasks).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        %trust_domain,
        admin = %settings.admin,
        metrics = %settings.metrics,
        readiness = %settings.readiness,
        pods = wanted.len(),
        workers = settings.workers,
        "adit starts; {ENDS}"
    );
    let carrier = Arc::new(Carrier::new(Arc::clone(&node)));
    let workload_api = Served::open(workload_api, &node, &trust_domain, &tasks, &tasks)?;
    let mut live = Live {
        file: file.to_owned(),
        watched,
        trust_domain,
        ca: ca_config,
        wanted,
        capture,
        grace: settings.drain,
        settings,
        federation,
        federated,
        carrier,
        starting: FuturesUnordered::new(),
        failed: BTreeMap::new(),
        again: false,
        workload_api,
        alone: early.confined.alone,
        store,
        node,
        state,
    };
    tasks.spawn(watch_probes(Arc::clone(&live.carrier)));
    tasks.spawn(Arc::clone(&live.carrier).watch_namespaces());
    live.start_pods();
    live.accepted();
    let mut watch = tokio::time::interval(Duration::from_millis(500));
    let mut ticks = 0_u32;
    let mut ebb = Ebb::default();
    let mut fed = std::pin::pin!(watchdog::feed(&manager, &workers, || None));
    let stop = loop {
        told.look(&manager, live.starting.is_empty(), || live.now());
        tokio::select! {
            never = &mut fed => match never {},
            asked = signals.next() => match asked {
                Asked::Stop(why) => break why,
                Asked::Reload => {
                    told.reloading(&manager);
                    live.reload();
                }
                Asked::Upgrade => {
                    tracing::warn!("SIGUSR2: a node is not handed over to a successor; nothing is done");
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
    };
    tracing::info!(grace = ?live.grace, "{}", stop.words());
    live.state.set_draining();
    manager.stopping(&draining(&live.node), live.grace + RELEASE_WITHIN);
    live.carrier.close();
    let node = Arc::clone(&live.node);
    let hurry = live.carrier.hurry.clone();
    let mut stopped = std::pin::pin!(async {
        // What is being started ends at once, and is stopped with the rest.
        while live.starting.next().await.is_some() {}
        live.carrier.stop_all(live.grace, live.capture).await;
    });
    loop {
        tokio::select! {
            () = &mut stopped => break,
            never = &mut fed => match never {},
            _ = watch.tick() => manager.status(&draining(&node)),
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

/// The short way to applications, if a workload asks for it; before the process is confined, as
/// programs of the kernel are loaded.
fn short_way(wanted: &[Arc<Workload>]) -> Option<io::Result<Arc<Sockmap>>> {
    wanted.iter().find(|w| w.app_hop() == AppHop::Sockmap)?;
    Some(Sockmap::load(HBONE_PORT))
}

/// It, once there is a log.
fn taken(loaded: io::Result<Arc<Sockmap>>) -> Option<Arc<Sockmap>> {
    match loaded {
        Ok(sockmap) => {
            tracing::info!("appHop: sockmap is on");
            Some(sockmap)
        }
        Err(error) => {
            tracing::warn!(%error, "appHop: sockmap cannot be had here; applications are reached by TCP");
            None
        }
    }
}

/// How long capture rules and what is left may take after the connections.
const RELEASE_WITHIN: Duration = Duration::from_secs(15);

/// What a node that stops still does, for people.
fn draining(node: &Node) -> String {
    format!("draining: {} connections", node.telemetry.live.len())
}

/// As many workloads as one message each is spent on.
const MOST_NAMED: usize = 8;

/// At two looks a second.
const LOOKS_IN_TEN_MINUTES: u32 = 1200;

/// What a reload changes.
struct Live {
    file: PathBuf,
    watched: WatchedFile,
    trust_domain: crate::identity::TrustDomain,
    ca: CaConfig,
    wanted: Vec<Arc<Workload>>,
    capture: config::Capture,
    grace: Duration,
    /// As they were at the start.
    settings: config::Settings,
    federation: config::FederationConfig,
    federated: Arc<Federation>,
    carrier: Arc<Carrier>,
    /// The changes of pods that are under way, beside everything else and each other.
    starting: FuturesUnordered<BoxFuture<'static, Changed>>,
    /// Pods that are not carried as they should be.
    failed: BTreeMap<Arc<str>, Failed>,
    /// Whether others have to follow what is under way.
    again: bool,
    workload_api: Served,
    /// Whether the sandbox keeps `/proc` of other processes from this one.
    alone: bool,
    /// What the file says of the mesh; [`Node::mesh`] is a view of it.
    store: Store,
    node: Arc<Node>,
    state: Arc<State>,
}

impl Live {
    /// Begins to carry what is wanted.
    fn start_pods(&mut self) {
        let changes = self.carrier.reconcile(&self.wanted, self.capture, self.grace, &self.failed);
        self.again = changes.more;
        self.starting.extend(changes.work);
        self.failed.retain(|uid, _| self.wanted.iter().any(|w| w.uid == *uid));
        self.tell_state();
    }

    fn started(&mut self, Changed { uid, failed }: Changed) {
        let before = self.failed.remove(&uid);
        if let Some(failed) = failed {
            let why = &failed.why;
            match failed.absent {
                true if before.as_ref().is_some_and(|before| before.why == *why) => {}
                true => tracing::warn!("{why}; it is carried when that is there"),
                false => tracing::error!("{why}; trying again in 5 s"),
            }
            self.failed.insert(uid, failed);
        }
        if self.again {
            self.start_pods();
        } else {
            self.tell_state();
        }
    }

    /// Tells others which pods are carried, and which are not.
    fn tell_state(&self) {
        let failed = i64::try_from(self.failed.len()).unwrap_or(i64::MAX);
        self.node.telemetry.metrics.pods.pending.set(failed);
        let pending = self.failed.values().filter(|failed| !failed.absent);
        self.state.set_pending(pending.map(|failed| failed.why.clone()).collect());
        if self.starting.is_empty() {
            self.state.set_loaded();
        }
        self.workload_api.register(&self.carrier);
    }

    /// Takes the file if it is whole and right, else keeps what was.
    fn reload(&mut self) {
        let Some(read) = self.watched.read(|| config::load(&self.file)) else {
            return; // written while it was read: a later look takes it
        };
        let checked = match read {
            Ok(checked) => checked,
            Err(error) => return self.rejected(&error.to_string()),
        };
        if checked.mesh.trust_domain != self.trust_domain || checked.ca != self.ca {
            let key = if checked.ca == self.ca { "trustDomain" } else { "ca" };
            let place = checked.lines.place(&crate::identity::shown(&self.file), key);
            let why = format!("{place} cannot change while adit runs; restart it");
            return self.rejected(&why);
        }
        self.warn_of_restart(&checked);
        self.wanted = checked.local_workloads();
        self.capture = checked.capture;
        self.workload_api.take(checked.workload_api);
        self.grace = checked.settings.drain;
        self.federated.apply(&checked.federation.trust_domains);
        checked.mesh.apply(&mut self.store);
        let changes = self.store.take_changes();
        self.node.mesh.store(Arc::new(self.store.view()));
        let closed = recheck(&self.node, &changes.rules());
        self.start_pods();
        tracing::info!(file = %crate::identity::shown(&self.file), connections_closed = closed, "configuration reloaded");
        self.accepted();
    }

    /// What this process does, and what it waits for, for people.
    fn now(&self) -> (String, Option<String>) {
        let pods = self.wanted.len();
        (format!("carries {pods} pods of {}", self.trust_domain), self.state.waits_for())
    }

    /// Names the settings that have changed since the start and take effect at a start only.
    fn warn_of_restart(&self, now: &Checked) {
        let file = crate::identity::shown(&self.file);
        let settings = self.settings.restart_keys(&now.settings);
        let federation = self.federation.restart_keys(&now.federation);
        let workload_api = self.workload_api.restart_keys(now.workload_api.as_ref());
        for key in settings.into_iter().chain(federation).chain(workload_api) {
            tracing::warn!("{}", now.lines.after_restart(&file, key));
        }
        let local = now.local_workloads();
        let out_of_reach =
            |pod: &&Arc<Workload>| self.alone && pod.netns().is_some_and(is_of_process);
        if let Some(pod) = local.iter().find(out_of_reach) {
            tracing::warn!(workload = %pod.uid, "a pod is named by a process ID: that takes effect after a restart, as the sandbox keeps /proc of others from this process");
        }
        let mut hops = local.iter().filter(|now| self.keeps_its_hop(now));
        for workload in hops.by_ref().take(MOST_NAMED) {
            let place = now.places.iter().find(|(uid, _)| *uid == workload.uid);
            let Some((_, Fault { key, line, .. })) = place else { continue };
            tracing::warn!("{key}.appHop ({file}:{line}): takes effect after a restart");
        }
        match hops.count() {
            0 => {}
            more => tracing::warn!("appHop of {more} more: takes effect after a restart"),
        }
    }

    /// A pod's way to its application stays as it was started.
    fn keeps_its_hop(&self, now: &Workload) -> bool {
        match self.wanted.iter().find(|then| then.uid == now.uid) {
            Some(then) => then.app_hop() != now.app_hop(),
            None => now.app_hop() == AppHop::Sockmap && self.node.sockmap.is_none(),
        }
    }

    /// Traffic series of workloads that have left the mesh.
    fn forget_unused(&self) {
        let mesh = self.node.mesh.load();
        let names = mesh.workloads().map(|w| (&*w.name, &**w.namespace()));
        let there: HashSet<(&str, &str)> = names.collect();
        let metrics = &self.node.telemetry.metrics;
        metrics
            .connections
            .forget_unused(KEPT, |name, namespace| there.contains(&(name, namespace)));
    }

    fn accepted(&self) {
        let metrics = &self.node.telemetry.metrics;
        metrics.config.loads.with_label_values(&["accepted"]).inc();
        self.state.file.taken();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.config.loaded.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn rejected(&self, error: &str) {
        self.node.telemetry.metrics.config.loads.with_label_values(&["rejected"]).inc();
        self.state.file.refused(error);
        tracing::error!(file = %crate::identity::shown(&self.file), error, "configuration refused, the last good one stays");
    }
}
