//! A node that follows an istiod, and what it knows of the mesh by that.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use adit::{
    credentials::{AuthToken, ControlPlane, Roots, Server},
    lifecycle::Tasks,
    mesh::source::xds::{Fault, NodeIdentity, Push, Xds, XdsConfig, XdsStatus},
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

/// What a store would hold: names, and the content as it was applied.
type Mesh = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub(crate) struct World {
    pub(crate) istiod: FakeIstiod,
    pub(crate) leaf: Leaf,
    pub(crate) xds: Xds,
    pub(crate) metrics: Arc<Metrics>,
    mesh: Mesh,
    tasks: Tasks,
    _ca: Ca,
    _folder: TempDir,
}

/// Resources with this in their name are not taken.
pub(crate) const BAD: &str = "bad";

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
        let (roots, token) = (folder.path().join("root-cert.pem"), folder.path().join("token"));
        std::fs::write(&roots, &ca.pem).unwrap();
        std::fs::write(&token, "a-token\n").unwrap();
        let name = NAME.try_into().unwrap();
        let mut config = XdsConfig {
            server: ControlPlane {
                address: "https://istiod.istio-system.svc:15012".into(),
                server: Server { host: "127.0.0.1".into(), port: istiod.addr.port(), name },
                alternative_name: None,
                roots: Roots::File(roots),
                token: Some(AuthToken::File(token)),
                cluster_id: Some("Kubernetes".into()),
                headers: vec![("x-extra".parse().unwrap(), "1".parse().unwrap())],
            },
            node: NodeIdentity {
                id: "ztunnel~10.244.1.2~adit-n1.istio-system~istio-system.svc.cluster.local".into(),
                metadata: [("CLUSTER_ID".to_owned(), "Kubernetes".into())].into(),
            },
            on_demand: false,
        };
        change(&mut config);
        let (metrics, tasks) = (Arc::new(Metrics::new().unwrap()), Tasks::default());
        let (xds, pushes) = Xds::follow(config, Arc::clone(&metrics), &tasks);
        let mesh = Mesh::default();
        tasks.spawn(apply(pushes, Arc::clone(&mesh)));
        Self { istiod, leaf, xds, metrics, mesh, tasks, _ca: ca, _folder: folder }
    }

    /// The names that are in force.
    pub(crate) fn names(&self) -> Vec<String> {
        self.mesh.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn is_in_force(&self, resource: &Resource) -> bool {
        let content = resource.resource.as_ref().unwrap().value.to_vec();
        self.mesh.lock().unwrap().get(&resource.name) == Some(&content)
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

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

/// The owner of the store: in slices, so that others have their turn.
async fn apply(mut pushes: mpsc::Receiver<Push>, mesh: Mesh) {
    while let Some(Push { delta, applied }) = pushes.recv().await {
        let mut faults = Vec::new();
        for slice in delta.upserted.chunks(256) {
            for resource in slice {
                if resource.name.contains(BAD) {
                    faults.push(Fault::new(Arc::clone(&resource.name), "is bad"));
                } else {
                    let content = resource.value.to_vec();
                    mesh.lock().unwrap().insert(resource.name.to_string(), content);
                }
            }
            tokio::task::yield_now().await;
        }
        for name in &delta.removed {
            mesh.lock().unwrap().remove(&**name);
        }
        let _ = applied.send(faults);
    }
}

/// A pod, as istiod names it.
pub(crate) fn pod(name: &str, version: &str) -> Resource {
    let uid = format!("Kubernetes//Pod/mesh/{name}");
    let workload = Workload {
        uid: uid.clone(),
        name: name.into(),
        namespace: "mesh".into(),
        // So that versions differ in what they say.
        canonical_revision: version.into(),
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
