//! `adit run`: a mesh from one file, until SIGTERM.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
};

use super::{
    begun::{ENDS, Stop},
    carrier::{Carrier, Failed},
    ebb::Ebb,
    probed::watch_probes,
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
    config::{self, CaConfig, Checked, LoadError},
    lifecycle::Tasks,
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
    let seen = stamp(file);
    let checked = config::load(file)?;
    may_enter(&checked.local_workloads())?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let logging = Logging::start(checked.settings.log_format, &filter)
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}"))?;
    crate::sys::process::harden();
    let workers = Workers::start(checked.settings.workers)?;
    let control =
        Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let ran = control.block_on(serve(file, seen, checked, logging, workers.handles.clone()));
    drop(workers);
    Ok(ran?)
}

async fn serve(
    file: &Path,
    seen: Option<Stamp>,
    checked: Checked,
    logging: Logging,
    workers: Vec<Handle>,
) -> anyhow::Result<()> {
    // From here on a signal is waited for, not fatal.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
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
    federation::serve(&checked.federation.serve, &trust_domain, &svids, &tasks).await?;
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
        sockmap: short_way(&wanted),
        workers,
    });
    tasks.spawn(guard(Arc::clone(&node)));
    let state = Arc::new(State::new(Arc::clone(&node), Arc::clone(&federated), logging));
    admin::serve(&state, &settings, &tasks).await?;
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
    let workload_api = Served::open(workload_api, &node, &trust_domain, &tasks)?;
    let mut live = Live {
        file: file.to_owned(),
        seen,
        changing: None,
        trust_domain,
        ca: ca_config,
        wanted,
        capture,
        grace: settings.drain,
        settings: fixed(&settings, &federation),
        federated,
        carrier,
        starting: FuturesUnordered::new(),
        incomplete: false,
        absent: BTreeSet::new(),
        again: false,
        workload_api,
        store,
        node,
        state,
    };
    tasks.spawn(watch_probes(Arc::clone(&live.carrier)));
    live.start_pods();
    live.accepted();
    let mut watch = tokio::time::interval(Duration::from_millis(500));
    let mut ticks = 0_u32;
    let mut ebb = Ebb::default();
    let stop = loop {
        tokio::select! {
            _ = terminate.recv() => break Stop::Terminate,
            _ = interrupt.recv() => break Stop::Interrupt,
            _ = hangup.recv() => live.reload(),
            _ = user.recv() => live.reload(),
            _ = upgrade.recv() => {
                tracing::warn!("SIGUSR2: a node is not handed over to a successor; nothing is done");
            }
            Some(failed) = live.starting.next() => live.started(failed),
            _ = watch.tick() => {
                ticks = ticks.wrapping_add(1);
                ebb.look(&live.node.telemetry.live);
                if ticks.is_multiple_of(LOOKS_IN_TEN_MINUTES) {
                    live.forget_unused();
                }
                if live.settled() {
                    live.reload();
                } else if live.starting.is_empty()
                    && (live.carrier.any_moved()
                        || (ticks.is_multiple_of(10) && live.incomplete))
                {
                    live.start_pods();
                }
            }
        }
    };
    tracing::info!(grace = ?live.grace, "{}", stop.words());
    live.state.set_draining();
    live.carrier.close();
    let hurry = live.carrier.hurry.clone();
    let mut stopped = std::pin::pin!(async {
        // What is being started ends at once, and is stopped with the rest.
        while live.starting.next().await.is_some() {}
        live.carrier.stop_all(live.grace, live.capture).await;
    });
    loop {
        tokio::select! {
            () = &mut stopped => break,
            _ = interrupt.recv() => {
                tracing::warn!("SIGINT while draining: not waiting for connections");
                hurry.cancel();
            }
        }
    }
    tasks.cut();
    tasks.ended().await;
    Ok(())
}

/// The short way to applications, if a workload asks for it and this kernel has it.
fn short_way(wanted: &[Arc<Workload>]) -> Option<Arc<Sockmap>> {
    wanted.iter().find(|w| w.app_hop() == AppHop::Sockmap)?;
    match Sockmap::load(HBONE_PORT) {
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

/// At two looks a second.
const LOOKS_IN_TEN_MINUTES: u32 = 1200;

/// What a reload changes.
struct Live {
    file: PathBuf,
    seen: Option<Stamp>,
    changing: Option<Stamp>,
    trust_domain: crate::identity::TrustDomain,
    ca: CaConfig,
    wanted: Vec<Arc<Workload>>,
    capture: config::Capture,
    grace: Duration,
    settings: Fixed,
    federated: Arc<Federation>,
    carrier: Arc<Carrier>,
    /// The change of pods that is under way, beside everything else: one at a time.
    starting: FuturesUnordered<BoxFuture<'static, Vec<Failed>>>,
    /// Whether a pod is not carried as it should be, for one of these reasons or another.
    incomplete: bool,
    absent: BTreeSet<String>,
    /// Whether another has to follow it.
    again: bool,
    workload_api: Served,
    /// What the file says of the mesh; [`Node::mesh`] is a view of it.
    store: Store,
    node: Arc<Node>,
    state: Arc<State>,
}

impl Live {
    /// Whether the file is another than the one in force and has stopped changing: somebody
    /// who writes it in place is not read in the middle.
    fn settled(&mut self) -> bool {
        let now = stamp(&self.file);
        if now == self.seen {
            self.changing = None;
            return false;
        }
        std::mem::replace(&mut self.changing, now) == now
    }

    /// Begins to carry what is wanted. What needs no rules is done when this returns.
    fn start_pods(&mut self) {
        if !self.starting.is_empty() {
            self.again = true;
            return;
        }
        let carrier = Arc::clone(&self.carrier);
        let work = carrier.reconcile(self.wanted.clone(), self.capture, self.grace);
        self.starting.push(work.boxed());
        if let Some(Some(failed)) = self.starting.next().now_or_never() {
            self.started(failed);
        }
    }

    fn started(&mut self, failed: Vec<Failed>) {
        self.incomplete = !failed.is_empty();
        let (absent, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|f| f.absent);
        let absent: BTreeSet<String> = absent.into_iter().map(|f| f.why).collect();
        for why in absent.difference(&self.absent) {
            tracing::warn!("{why}; it is carried when that is there");
        }
        self.absent = absent;
        let failed: Vec<_> = failed.into_iter().map(|f| f.why).collect();
        failed.iter().for_each(|error| tracing::error!("{error}; trying again in 5 s"));
        self.state.set_pending(failed);
        self.state.set_loaded();
        self.workload_api.register(&self.carrier);
        if std::mem::take(&mut self.again) {
            self.start_pods();
        }
    }

    /// Takes the file if it is whole and right, else keeps what was.
    fn reload(&mut self) {
        let seen = stamp(&self.file);
        let checked = match config::load(&self.file) {
            Ok(checked) => checked,
            Err(error) => {
                self.seen = seen;
                return self.rejected(&error.to_string());
            }
        };
        if stamp(&self.file) != seen {
            return; // written while it was read: the next look takes it
        }
        self.seen = seen;
        if checked.mesh.trust_domain != self.trust_domain || checked.ca != self.ca {
            let key = if checked.ca == self.ca { "trustDomain" } else { "ca" };
            let why = format!("{key} cannot change while adit runs; restart it");
            return self.rejected(&why);
        }
        let before = std::mem::replace(&mut self.wanted, checked.local_workloads());
        if self.waits_for_restart(&before) {
            tracing::warn!("a change of `appHop` takes effect when adit is restarted");
        }
        self.capture = checked.capture;
        self.workload_api.take(checked.workload_api);
        self.grace = checked.settings.drain;
        let waiting = fixed(&checked.settings, &checked.federation);
        let waiting: Vec<&str> = waiting
            .iter()
            .zip(&self.settings)
            .filter_map(|(now, then)| (now != then).then_some(now.0))
            .collect();
        if !waiting.is_empty() {
            let settings = waiting.join(", ");
            tracing::warn!(settings, "these settings take effect when adit is restarted");
        }
        self.federated.apply(&checked.federation.trust_domains);
        checked.mesh.apply(&mut self.store);
        let changes = self.store.take_changes();
        self.node.mesh.store(Arc::new(self.store.view()));
        let closed = recheck(&self.node, &changes.rules());
        self.start_pods();
        tracing::info!(file = %crate::identity::shown(&self.file), connections_closed = closed, "configuration reloaded");
        self.accepted();
    }

    /// A pod's way to its application stays as it was started.
    fn waits_for_restart(&self, before: &[Arc<Workload>]) -> bool {
        self.wanted.iter().any(|now| match before.iter().find(|then| then.uid == now.uid) {
            Some(then) => then.app_hop() != now.app_hop(),
            None => now.app_hop() == AppHop::Sockmap && self.node.sockmap.is_none(),
        })
    }

    /// Traffic series of workloads that have left the mesh.
    fn forget_unused(&self) {
        let mesh = self.node.mesh.load();
        let names = mesh.workloads().map(|w| (&*w.name, &**w.namespace()));
        let there: HashSet<(&str, &str)> = names.collect();
        let metrics = &self.node.telemetry.metrics;
        metrics.forget_unused(KEPT, |name, namespace| there.contains(&(name, namespace)));
    }

    fn accepted(&self) {
        let metrics = &self.node.telemetry.metrics;
        metrics.config_loads.with_label_values(&["accepted"]).inc();
        self.state.file.taken();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics.config_loaded.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn rejected(&self, error: &str) {
        self.node.telemetry.metrics.config_loads.with_label_values(&["rejected"]).inc();
        self.state.file.refused(error);
        tracing::error!(file = %crate::identity::shown(&self.file), error, "configuration refused, the last good one stays");
    }
}

/// Keys of the file, and what they say.
type Fixed = Vec<(&'static str, String)>;

/// The settings that a reload does not change.
fn fixed(settings: &config::Settings, federation: &config::FederationConfig) -> Fixed {
    let mut all = settings.fixed();
    all.push(("federation.serve", format!("{:?}", federation.serve)));
    all.push(("federation.stateDir", format!("{:?}", federation.state_dir)));
    all
}

/// When a file was last written, and which it is.
type Stamp = (SystemTime, u64);

fn stamp(file: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len() ^ meta.ino().rotate_left(32)))
}
