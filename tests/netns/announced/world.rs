//! Pods, an istio-cni of ours, and what a node runs of adit for both, in this process.

use std::{
    fs::File,
    io::ErrorKind,
    ops::Deref,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use adit::{
    authority::EmbeddedCa,
    credentials::Svids,
    hbone::{TunnelConfig, TunnelRegistry},
    lifecycle::Tasks,
    mesh::{MtlsMode, Store, Template, Workload},
    observe::Telemetry,
    pods::{
        capture::Capture,
        controller::PodController,
        manager::{Leave, PodManager},
        source::zds::{ZdsSource, ZdsState},
    },
    relay,
    roles::node::Node,
    sys::netns::Netns,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    fake_cni::{Conversation, FakeCni, add},
    lab::Lab,
    mesh::PODS,
    rules_of_cni::redirect,
};

/// How long connections may go on.
const GRACE: Duration = Duration::from_secs(8);

pub(crate) struct World {
    pub(crate) lab: Lab,
    socket: FakeCni,
    process: Option<Process>,
}

/// What a process has of adit.
pub(crate) struct Process {
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Arc<PodManager>,
    state: watch::Receiver<ZdsState>,
    pending: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    control: Option<JoinHandle<()>>,
    _workers: Runtime,
    _ca: tempfile::TempDir,
}

impl Process {
    fn begin(path: &Path) -> Self {
        let workers = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ca = tempfile::tempdir().unwrap();
        let path = path.to_owned();
        let pending = Arc::<Mutex<Vec<String>>>::default();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let (dir, worker, shown) =
            (ca.path().to_owned(), workers.handle().clone(), pending.clone());
        let control = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let tasks = Tasks::default();
                let node = Arc::new(node(&dir, worker, &tasks));
                let pods = PodController::new(&node);
                let (source, state) = ZdsSource::new(&path);
                tell.send((node, Arc::clone(&pods.manager), state)).unwrap();
                control(pods, source, &shown, stopped).await;
                tasks.cut();
                tasks.ended().await;
            });
        });
        let (node, pods, state) = told.recv().unwrap();
        let (stop, control, _workers, _ca) = (Some(stop), Some(control), workers, ca);
        Self { node, pods, state, pending, stop, control, _workers, _ca }
    }
}

impl Deref for World {
    type Target = Process;

    fn deref(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}

impl World {
    /// Nobody is announced, and the mesh is empty.
    pub(crate) fn new() -> Self {
        let lab = Lab::new(PODS);
        lab.echo("db", 8080);
        let path = lab.file("ztunnel.sock");
        let socket = FakeCni::listen(&path);
        Self { lab, socket, process: Some(Process::begin(&path)) }
    }

    /// One process ends, and then another begins, which knows nothing yet.
    pub(crate) fn restart(&mut self) {
        drop(self.process.take());
        self.process = Some(Process::begin(&self.lab.file("ztunnel.sock")));
    }

    /// The process is told to end.
    pub(crate) fn stops(&mut self) {
        drop(self.process.as_mut().and_then(|process| process.stop.take()));
    }

    /// Waits until it has ended.
    pub(crate) fn ends(&mut self) {
        drop(self.process.take());
    }

    /// The connection of adit to istio-cni.
    #[track_caller]
    pub(crate) fn cni(&self) -> Conversation {
        self.socket.accept()
    }

    /// istio-cni announces a pod under its own name; what is answered.
    #[track_caller]
    pub(crate) fn adds(&self, cni: &Conversation, pod: &str) -> String {
        let netns = self.open(pod);
        cni.asks(&add(&format!("uid-{pod}"), "shop", pod, pod), &[netns.as_fd()])
    }

    /// A descriptor of a pod's namespace.
    pub(crate) fn open(&self, pod: &str) -> OwnedFd {
        File::open(format!("/run/netns/{pod}")).unwrap().into()
    }

    pub(crate) fn netns(&self, pod: &str) -> Netns {
        self.lab.netns(pod)
    }

    /// The mesh says which workloads are on this node: name, service account, address.
    pub(crate) fn names(&self, all: &[(&str, &str, &str)]) {
        self.names_in("cluster.local", all);
    }

    /// The same, of a trust domain.
    pub(crate) fn names_in(&self, trust_domain: &str, all: &[(&str, &str, &str)]) {
        let mut store = store();
        for (name, account, address) in all {
            let id = format!("spiffe://{trust_domain}/ns/shop/sa/{account}").parse().unwrap();
            store.upsert_workload(Workload {
                uid: format!("Kubernetes//Pod/shop/{name}").into(),
                name: (*name).into(),
                addresses: [address.parse().unwrap()].into(),
                node: Some("n1".into()),
                healthy: true,
                template: Arc::new(Template::new("shop".into(), id)),
                local: None,
            });
        }
        self.node.mesh.store(Arc::new(store.view()));
        self.pods.mesh_changed();
    }

    /// Whether a connection to this address is in the hands of adit.
    pub(crate) fn carries(&self, to: &str) -> bool {
        let to = to.parse().ok();
        self.node.telemetry.live.all().iter().any(|conn| conn.metadata(|f| f.dst_addr == to))
    }

    /// Whether all three ports are open in a pod.
    pub(crate) fn listens(&self, pod: &str) -> bool {
        let is_open = |port: &u16| match self.lab.connect(pod, &format!("127.0.0.1:{port}")) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
            // Accepted, and refused as a call that was not redirected.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) => panic!("port {port} of {pod}: {error}"),
        };
        [15001, 15006, 15008].iter().all(is_open)
    }

    /// Puts istio-cni's redirection into a pod.
    pub(crate) fn redirects(&self, pod: &str) {
        redirect(&self.lab, pod);
    }

    /// The metrics of now.
    pub(crate) fn metrics(&self) -> String {
        self.node.telemetry.metrics.render(&self.node.telemetry.live)
    }

    /// A port of a pod at which another proxy of this user listens.
    pub(crate) fn other_proxy(&self, pod: &str, port: u16) -> Socket {
        let open = || {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&std::net::SocketAddr::from(([0_u16; 8], port)).into())?;
            socket.listen(8).map(|()| socket)
        };
        self.netns(pod).run(open).unwrap().unwrap()
    }

    /// Pods that could not be attached, and why.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.pending.lock().unwrap().clone()
    }

    pub(crate) fn waits_for(&self) -> Option<String> {
        self.state.borrow().waits_for()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.control.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

fn store() -> Store {
    let trust_domain = "cluster.local".parse().unwrap();
    Store::new(trust_domain, MtlsMode::Strict).of_node(Some("n1".into()), "".into())
}

fn node(dir: &Path, worker: tokio::runtime::Handle, tasks: &Tasks) -> Node {
    let trust_domain = "cluster.local".parse().unwrap();
    let ca = EmbeddedCa::open(dir, &trust_domain, Duration::from_secs(3600)).unwrap();
    let telemetry = Telemetry::new().unwrap();
    let svids = Svids::new(Arc::new(ca), Arc::clone(&telemetry.metrics), tasks.child());
    let tunnels = TunnelRegistry::new(svids.watch_bundles(), svids.watch_banned());
    Node {
        mesh: std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(store().view())),
        dns: None,
        localhost_app_tunnel: true,
        endpoints: Default::default(),
        on_demand: None,
        outbound_traffic_policy: Default::default(),
        original_port: Default::default(),
        svids: Arc::new(svids),
        tunnels: Arc::new(tunnels),
        telemetry,
        tunnel: TunnelConfig::default(),
        limits: relay::Limits::default(),
        sockmap: None,
        workers: vec![worker],
        pods: Arc::default(),
        listeners: Arc::default(),
    }
}

/// What a node does about its pods until it is stopped.
async fn control(
    mut pods: PodController,
    source: ZdsSource,
    shown: &Mutex<Vec<String>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let (manager, tasks) = (Arc::clone(&pods.manager), Tasks::default());
    let (to, mut heard) = mpsc::channel(8);
    tasks.spawn(source.run(to));
    tasks.spawn(Arc::clone(&manager).join_mesh());
    let mut again = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            Some(announcement) = heard.recv() => {
                pods.hear(announcement);
                pods.reconcile(Capture::None, GRACE);
            }
            changed = pods.next() => {
                if pods.changed(changed) {
                    pods.reconcile(Capture::None, GRACE);
                }
            }
            () = manager.any_moved() => pods.reconcile(Capture::None, GRACE),
            _ = again.tick() => pods.try_again(Capture::None, GRACE),
            _ = &mut stopped => break,
        }
        *shown.lock().unwrap() = pods.failed().map(|failed| failed.why.clone()).collect();
    }
    manager.close();
    pods.finish().await;
    manager.stop_all(GRACE, &Leave::None).await;
    tasks.cut();
    tasks.ended().await;
}
