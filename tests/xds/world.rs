//! A node that follows an istiod, and what it knows of the mesh by that.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use adit::{
    credentials::{AuthToken, ControlPlane, Roots, Server, Transport},
    lifecycle::Tasks,
    mesh::{
        MtlsMode, Store, View,
        source::xds::{
            NodeIdentity, Push, TypeUrl, Xds, XdsConfig, XdsStatus, apply_addresses,
            apply_authorizations,
        },
    },
    observe::{conn::LiveTable, metrics::Metrics},
    rpc::{
        address::{Address, Workload, address::Type},
        authorization::Authorization,
        discovery::Resource,
    },
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{
    fake_istiod::{ADDRESS, AUTHORIZATION, FakeIstiod, FakeStream, resource},
    pki::{Ca, Leaf, dns},
    wait::{LIMIT, wait_until_async},
};

pub(crate) const NAME: &str = "istiod.istio-system.svc";

/// What is in force.
pub(crate) type Mesh = Arc<Mutex<Option<View>>>;

pub(crate) struct World {
    pub(crate) istiod: FakeIstiod,
    pub(crate) leaf: Leaf,
    pub(crate) xds: Xds,
    pub(crate) metrics: Arc<Metrics>,
    mesh: Mesh,
    tasks: Tasks,
    _ca: Ca,
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn on_demand() -> Self {
        Self::with(|config| config.on_demand = true)
    }

    pub(crate) fn with(change: impl FnOnce(&mut XdsConfig)) -> Self {
        let ca = Ca::new("istiod's", None);
        let leaf = ca.leaf("istiod", |params| params.subject_alt_names = vec![dns(NAME)]);
        let istiod = FakeIstiod::start(&leaf);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root-cert.pem"), &ca.pem).unwrap();
        std::fs::write(folder.path().join("token"), "a-token\n").unwrap();
        let mut config = config(istiod.addr.port(), folder.path());
        change(&mut config);
        let (metrics, tasks) = (Arc::new(Metrics::new().unwrap()), Tasks::default());
        let (xds, pushes) = Xds::follow(config, Arc::clone(&metrics), &tasks);
        let store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
        let mesh = Arc::new(Mutex::new(Some(store.view())));
        tasks.spawn(own(store, pushes, Arc::clone(&mesh)));
        Self { istiod, leaf, xds, metrics, mesh, tasks, _ca: ca, folder }
    }

    /// Writes what a node reads: `root-cert.pem` or `token`.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The names of the workloads and policies that are in force.
    pub(crate) fn names(&self) -> Vec<String> {
        let mesh = self.mesh.lock().unwrap();
        let view = mesh.as_ref().unwrap();
        let mut names: Vec<String> = view.workloads().map(|w| w.uid.to_string()).collect();
        names.extend(view.policies().map(|policy| policy.key()));
        names.sort();
        names
    }

    /// The version of a pod that is in force.
    pub(crate) fn version(&self, name: &str) -> Option<String> {
        let mesh = self.mesh.lock().unwrap();
        let pod = mesh.as_ref()?.workload(&uid(name))?;
        Some(pod.template.app.canonical_revision.to_string())
    }

    pub(crate) fn status(&self) -> XdsStatus {
        self.xds.status().borrow().clone()
    }

    pub(crate) async fn until(&self, what: &str, so: impl Fn(&XdsStatus) -> bool) {
        wait_until_async(what, LIMIT, async || so(&self.status())).await;
    }

    /// What a counter says.
    pub(crate) fn counted(&self, series: &str) -> u64 {
        let text = self.metrics.render(&LiveTable::default());
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// The next stream, past its first requests, answered with nothing for both types.
    pub(crate) async fn synced(&mut self) -> FakeStream {
        let mut stream = self.istiod.stream().await;
        stream.first().await;
        stream.push(ADDRESS, Vec::new(), &[]).await;
        stream.push(AUTHORIZATION, Vec::new(), &[]).await;
        stream
    }

    /// Kills the istiod. Returns where it was; the one that is there now is elsewhere.
    pub(crate) fn kill(&mut self) -> SocketAddr {
        let elsewhere = FakeIstiod::start(&self.leaf);
        let killed = std::mem::replace(&mut self.istiod, elsewhere);
        let addr = killed.addr;
        killed.kill();
        addr
    }

    /// Another istiod where one was.
    pub(crate) fn restart_at(&mut self, addr: SocketAddr) {
        self.istiod = FakeIstiod::start_at(addr, &self.leaf);
    }
}

/// What a node is told of its control plane; this folder has the roots and the token.
pub(crate) fn config(port: u16, folder: &Path) -> XdsConfig {
    XdsConfig {
        server: ControlPlane {
            address: "https://istiod.istio-system.svc:15012".into(),
            server: Server {
                host: "127.0.0.1".into(),
                port,
                name: NAME.try_into().unwrap(),
                transport: Transport::default(),
            },
            alternative_name: None,
            roots: Roots::File(folder.join("root-cert.pem")),
            token: Some(AuthToken::File(folder.join("token"))),
            cluster_id: Some("Kubernetes".into()),
            headers: vec![("x-extra".parse().unwrap(), "1".parse().unwrap())],
        },
        node: NodeIdentity {
            id: "ztunnel~10.244.1.2~adit-n1.istio-system~istio-system.svc.cluster.local".into(),
            metadata: [("CLUSTER_ID".to_owned(), "Kubernetes".into())].into(),
        },
        on_demand: false,
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

/// The owner of the store.
pub(crate) async fn own(mut store: Store, mut pushes: mpsc::Receiver<Push>, mesh: Mesh) {
    while let Some(Push { delta, applied }) = pushes.recv().await {
        let faults = match delta.type_url {
            TypeUrl::Address => apply_addresses(&mut store, delta).await,
            TypeUrl::Authorization => apply_authorizations(&mut store, delta).await,
        };
        *mesh.lock().unwrap() = Some(store.view());
        let _ = applied.send(faults);
    }
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/mesh/{name}")
}

/// The name of what no node takes: a sidecar's own mTLS.
pub(crate) const BAD: &str = "bad";

/// A pod, as istiod names it.
pub(crate) fn pod(name: &str, version: &str) -> Resource {
    let uid = uid(name);
    let workload = Workload {
        uid: uid.clone(),
        name: name.into(),
        namespace: "mesh".into(),
        // So that versions differ in what they say.
        canonical_revision: version.into(),
        tunnel_protocol: if name == BAD { 2 } else { 1 },
        ..Workload::default()
    };
    let address = Address { r#type: Some(Type::Workload(workload)) };
    resource(ADDRESS, &uid, version, &address)
}

pub(crate) fn policy(name: &str) -> Resource {
    let (namespace, policy) = name.split_once('/').unwrap();
    let message = Authorization {
        name: policy.into(),
        namespace: namespace.into(),
        ..Authorization::default()
    };
    resource(AUTHORIZATION, name, "", &message)
}
