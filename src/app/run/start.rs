//! The start of a node: all that it has is opened, in order.

use std::{io, path::PathBuf, sync::Arc};

use tokio::runtime::Handle;

use super::live::Live;
use crate::{
    admin::{self, State},
    app::{begun::ENDS, frame::Takeover, process::sandbox::Confined, source, workload_api::Served},
    config::Checked,
    credentials::Svids,
    hbone::HBONE_PORT,
    identity::shown,
    lifecycle::{Listeners, Tasks, WatchedFile},
    mesh::{AppHop, Workload},
    observe::{Telemetry, logging::Logging},
    pods::{controller::PodController, probed::watch_probes, source::file::FileSource},
    roles::node::{Node, revalidate},
    spiffe_api::federation::{self, Federation},
    sys::sockmap::Sockmap,
};

/// What is there before the control thread's runtime runs.
pub(super) struct Early {
    pub(super) file: PathBuf,
    pub(super) watched: WatchedFile,
    pub(super) checked: Checked,
    pub(super) logging: Logging,
    pub(super) confined: Confined,
    pub(super) sockmap: Option<io::Result<Arc<Sockmap>>>,
    pub(super) workers: Vec<Handle>,
    pub(super) takeover: Takeover,
    pub(super) listeners: Arc<Listeners>,
}

/// Opens everything, and begins to carry pods. What runs beside them runs in `tasks`.
///
/// # Errors
/// What cannot be opened.
pub(super) async fn start(early: Early, tasks: &Tasks) -> anyhow::Result<Live> {
    let Early { file, watched, checked, logging, confined, sockmap, workers, takeover, listeners } =
        early;
    let telemetry = Telemetry::new()?;
    let (trust_domain, endpoints) = (checked.mesh.trust_domain.clone(), tasks.child());
    let (svids, federated) = identities(&checked, &telemetry, tasks)?;
    let (serve, both) = (&checked.federation.serve, [&endpoints, tasks]);
    federation::serve(serve, &trust_domain, &svids, &listeners, both).await?;
    let local = checked.local_workloads();
    let Checked { mesh, settings, capture, workload_api, warnings, ca, federation, .. } = checked;
    warnings.iter().for_each(|w| tracing::warn!(file = %shown(&file), "{w}"));
    let store = mesh.store();
    let node = Arc::new(Node {
        tunnel: settings.tunnel.clone(),
        limits: settings.limits,
        sockmap: sockmap.and_then(taken),
        workers,
        listeners,
        ..Node::new(store.view(), svids, telemetry)
    });
    tasks.spawn(revalidate(Arc::clone(&node)));
    let state = Arc::new(State::new(Arc::clone(&node), Arc::clone(&federated), logging));
    admin::serve(&state, &(&settings).into(), &endpoints, tasks).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        %trust_domain,
        admin = %settings.admin,
        metrics = %settings.metrics,
        readiness = %settings.readiness,
        pods = local.len(),
        workers = settings.workers,
        "adit starts; {ENDS}"
    );
    let pods = PodController::new(&node);
    let workload_api = Served::open(workload_api, &node, &trust_domain, &endpoints, tasks)?;
    let mut live = Live {
        file,
        watched,
        trust_domain,
        ca,
        warnings,
        source: FileSource::default(),
        pods,
        capture,
        grace: settings.drain,
        settings,
        federation,
        federated,
        workload_api,
        alone: confined.alone,
        store,
        node,
        state,
        endpoints,
        takeover,
        left: None,
        tasks: tasks.clone(),
    };
    live.takeover.begin()?;
    if !live.takeover.waits() {
        live.takeover.serve(&live.node.listeners)?;
    }
    watch_pods(&live, tasks);
    live.take_pods(&local);
    live.start_pods();
    live.accepted();
    Ok(live)
}

/// What is looked at as long as there are pods.
fn watch_pods(live: &Live, tasks: &Tasks) {
    let manager = &live.pods.manager;
    tasks.spawn(watch_probes(Arc::clone(manager)));
    tasks.spawn(Arc::clone(manager).watch_namespaces());
    tasks.spawn(Arc::clone(manager).count_non_tcp());
    live.state.set_non_tcp(manager.non_tcp());
}

/// The source of SVIDs, and the bundles that peers are verified against.
fn identities(
    checked: &Checked,
    telemetry: &Telemetry,
    tasks: &Tasks,
) -> anyhow::Result<(Arc<Svids>, Arc<Federation>)> {
    let trust_domain = &checked.mesh.trust_domain;
    let ca = source::open(&checked.ca, trust_domain)?;
    let federated = Arc::new(Federation::new(
        trust_domain.clone(),
        ca.bundles(),
        checked.federation.state_dir.as_deref(),
        Arc::clone(&telemetry.metrics),
        tasks.child(),
    ));
    federated.apply(&checked.federation.trust_domains);
    let svids = Svids::new(ca, Arc::clone(&telemetry.metrics), tasks.child());
    Ok((Arc::new(svids.trusting(federated.bundles())), federated))
}

/// The sockmap redirect to applications, if a workload asks for it; before the process is confined,
/// as programs of the kernel are loaded.
pub(super) fn sockmap(wanted: &[Arc<Workload>]) -> Option<io::Result<Arc<Sockmap>>> {
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
            tracing::warn!(
                %error,
                "appHop: sockmap is not available here; applications are reached by TCP"
            );
            None
        }
    }
}
