//! The start of an ambient node: its endpoints first, which say what is waited for; then the mesh;
//! and pods once the mesh is known, so that none is carried before its policies are.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::mpsc};

use super::{mesh, node, own::OwnPod, role::Ambient};
use crate::{
    admin::{self, Addresses, StartTask, State},
    app::{announce::speak_as_node_proxy, begun::ENDS},
    config::environment::Environment,
    credentials::Svids,
    hbone::TunnelRegistry,
    lifecycle::Tasks,
    mesh::{MtlsMode, Store, source::xds::Xds},
    observe::{Telemetry, logging::Logging},
    pods::{controller::PodController, source::zds::ZdsSource},
    proxy::dns::DnsProxy,
    relay,
    roles::node::{Node, revalidate},
};

/// How many announcements of pods wait to be heard.
const ANNOUNCED: usize = 16;

/// What is there before the control thread's runtime runs.
pub(super) struct Early {
    pub(super) environment: Arc<Environment>,
    pub(super) logging: Logging,
    pub(super) workers: Vec<Handle>,
}

/// Opens everything. What runs beside pods runs in `tasks`.
///
/// # Errors
/// What cannot be opened. Nobody who is away is waited for here.
pub(super) async fn start(early: Early, tasks: &Tasks) -> anyhow::Result<Ambient> {
    let Early { environment, logging, workers } = early;
    let telemetry = Telemetry::new()?;
    speak_as_node_proxy(&telemetry, &environment);
    let (source, follows) = (node::source(&environment)?, node::mesh(&environment)?);
    let (source, crls) = node::with_crls(&environment, source, tasks);
    let svids = Svids::new(source, Arc::clone(&telemetry.metrics), tasks.child());
    let tunnels = TunnelRegistry::new(svids.watch_bundles(), svids.watch_banned());
    let store = store(&environment);
    let view = Arc::new(ArcSwap::from_pointee(store.view()));
    let dns = node::dns(&environment).map(|config| {
        let (view, metrics) = (Arc::clone(&view), Arc::clone(&telemetry.metrics));
        Arc::new(DnsProxy::new(config, Arc::new(move || view.load_full()), metrics, tasks))
    });
    let server = follows.server.address.clone();
    let (xds, pushes) = Xds::follow(follows, Arc::clone(&telemetry.metrics), tasks);
    let node = Arc::new(Node {
        pods: Arc::default(),
        endpoints: Default::default(),
        on_demand: environment.xds_on_demand.then(|| xds.clone()),
        outbound_traffic_policy: environment.outbound_traffic_policy,
        original_port: environment.tunnels.original_port,
        mesh: view,
        dns,
        localhost_app_tunnel: environment.localhost_app_tunnel,
        svids: Arc::new(svids),
        tunnels: Arc::new(tunnels),
        telemetry,
        tunnel: node::tunnels(&environment),
        limits: relay::Limits::default(),
        sockmap: None,
        workers,
        listeners: Arc::default(),
    });
    tasks.spawn(revalidate(Arc::clone(&node)));
    let state = Arc::new(State::ambient(Arc::clone(&node), Arc::clone(&environment), logging));
    let endpoints = tasks.child();
    admin::serve(&state, &Addresses::from(&*environment), &endpoints, tasks).await?;
    tell_start(&environment, &server);
    let pods = PodController::new(&node);
    state.set_control_plane(xds.status());
    let manager = Arc::clone(&pods.manager);
    let workload = environment.own.as_ref().filter(|_| environment.proxy);
    let own = workload.and_then(|workload| OwnPod::start(&node, workload));
    own.iter().for_each(|own| tasks.spawn(Arc::clone(own).join_mesh()));
    tasks.spawn(mesh::follow(store, pushes, Arc::clone(&node), (manager, own.clone())));
    tasks.spawn(Arc::clone(&pods.manager).join_mesh());
    let cni = tasks.child();
    let (announce, announced) = mpsc::channel(ANNOUNCED);
    let (zds, agent) = ZdsSource::new(&environment.zds_socket);
    if environment.proxy {
        let mut synced = xds.status();
        cni.spawn(async move {
            // Before that no policy is known, and so no pod can be carried.
            if synced.wait_for(|status| status.is_synced).await.is_ok() {
                zds.run(announce).await;
            }
        });
    }
    if crls.is_none() {
        state.set_done(StartTask::Proxy);
    }
    state.set_done(StartTask::DnsProxy);
    Ok(Ambient {
        environment,
        node,
        state,
        control_plane: xds.status(),
        crls,
        agent,
        announced,
        cni,
        pods,
        own,
        tasks: tasks.clone(),
    })
}

/// A mesh of which nothing is known yet. Who may call in plaintext is what policies say:
/// PeerAuthentication comes as one of them.
fn store(environment: &Environment) -> Store {
    let own_node = environment.node_name.as_deref().map(Into::into);
    Store::new(environment.trust_domain.clone(), MtlsMode::Permissive)
        .of_node(own_node, environment.network.as_str().into())
        .in_cluster(environment.cluster_id.as_str().into())
}

fn tell_start(environment: &Environment, server: &str) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        mesh = server,
        node = environment.node_name,
        workers = environment.workers,
        "adit starts; {ENDS}"
    );
}
