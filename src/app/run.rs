//! `adit run`: a mesh from one file, until SIGTERM.

mod live;

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::runtime::{Builder, Handle};

use self::live::Live;
use super::{
    begun::ENDS,
    carrier::Carrier,
    ebb::Ebb,
    needs::confine_node,
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
    config::{self, Checked, LoadError},
    lifecycle::{Listeners, ServiceManager, Tasks, WatchedFile},
    mesh::{AppHop, Workload},
    node::{Node, guard},
    observe::{Telemetry, logging::Logging},
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

/// At two looks a second.
const LOOKS_IN_TEN_MINUTES: u32 = 1200;
