//! An istiod with a mesh: what it has said is said again to nodes that come later.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use adit::{
    rpc::discovery::{DeltaDiscoveryRequest, Resource},
    sys::netns::Netns,
};
use rcgen::SerialNumber;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};

use crate::{
    fake_istiod::{ADDRESS, AUTHORIZATION, FakeIstiod, FakeStream},
    grpc_server::acceptor,
    node::A_WHILE,
    on_demand_istiod::{Asked, serve},
    outages::Fails,
    pki::{Ca, Leaf, ip, uri},
    resources::uid,
};

/// Where it is, in its own namespace.
pub(crate) const AT: &str = "10.77.0.250:15012";

pub(crate) struct Istiod {
    netns: Netns,
    leaf: Leaf,
    ca: Arc<Ca>,
    server: Option<FakeIstiod>,
    /// By the node that follows.
    streams: BTreeMap<String, FakeStream>,
    /// By type and name.
    mesh: BTreeMap<(&'static str, String), Resource>,
    /// For what it says in its turn.
    runtime: Runtime,
    /// For what it says to those who ask, if it does so.
    asked: Option<Runtime>,
}

impl Istiod {
    /// It does not run yet.
    pub(crate) fn new(netns: Netns) -> Self {
        let ca = Arc::new(Ca::new("the mesh", Some("spiffe://cluster.local")));
        let at: SocketAddr = AT.parse().unwrap();
        let leaf = ca.leaf("istiod", |p| p.subject_alt_names = vec![ip(&at.ip().to_string())]);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (streams, mesh) = (BTreeMap::new(), BTreeMap::new());
        Self { netns, leaf, ca, server: None, streams, mesh, runtime, asked: None }
    }

    /// The roots of its certificate and of those that it signs, PEM.
    pub(crate) fn roots(&self) -> &str {
        &self.ca.pem
    }

    /// What a pod of this service account shows that has its certificate by another way.
    pub(crate) fn leaf_of(&self, account: &str) -> Leaf {
        self.leaf_as(&format!("spiffe://cluster.local/ns/shop/sa/{account}"))
    }

    /// The same of this SPIFFE ID.
    pub(crate) fn leaf_as(&self, id: &str) -> Leaf {
        self.ca.leaf("a peer", |p| p.subject_alt_names = vec![uri(id)])
    }

    /// A list of its CA that revokes the certificates of these serial numbers, hex; PEM.
    pub(crate) fn crl(&self, serials: &[&str]) -> String {
        let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
        let number = |serial: &&str| {
            let bytes: Vec<u8> = serial.as_bytes().chunks(2).map(byte).collect();
            SerialNumber::from_slice(&bytes)
        };
        let serials: Vec<SerialNumber> = serials.iter().map(number).collect();
        self.ca.crl_naming(&serials, Duration::from_secs(3600))
    }

    pub(crate) fn start(&mut self) {
        let start = || FakeIstiod::start_signing(AT.parse().unwrap(), &self.leaf, self.ca.clone());
        self.server = Some(self.netns.run(start).unwrap());
    }

    /// It does this instead of following a node.
    pub(crate) fn fails(&self, fault: Fails) {
        let listen = || std::net::TcpListener::bind(AT).unwrap();
        let connected = || self.netns.run(listen).unwrap().accept().unwrap().0;
        match fault {
            Fails::IsAway => thread::sleep(A_WHILE),
            Fails::Closes => drop(connected()),
            Fails::IsSilent => {
                let _open = connected();
                thread::sleep(A_WHILE);
            }
            Fails::IsWrong => {
                let stranger = Ca::new("another", None).leaf("istiod", |_| {});
                let socket = connected();
                socket.set_nonblocking(true).unwrap();
                let refused = self.runtime.block_on(async {
                    acceptor(&stranger).accept(TcpStream::from_std(socket).unwrap()).await
                });
                assert!(refused.is_err(), "nobody believes a stranger");
            }
        }
    }

    /// So many nodes come, and follow from here on.
    pub(crate) fn meets(&mut self, nodes: usize) {
        let Self { server, streams, mesh, runtime, .. } = self;
        let server = server.as_mut().expect("it runs");
        for _ in 0..nodes {
            let (node, stream) = runtime.block_on(async {
                let mut stream = server.stream().await;
                let [first, _] = stream.first().await;
                for kind in [ADDRESS, AUTHORIZATION] {
                    let of_kind = mesh.iter().filter(|((of, _), _)| *of == kind);
                    let all = of_kind.map(|(_, resource)| resource.clone()).collect();
                    taken(&stream.push(kind, all, &[]).await);
                }
                (first.node.expect("who it is").id, stream)
            });
            streams.insert(node, stream);
        }
    }

    /// So many nodes come, and are told from here on what they ask for. Returns what that is.
    pub(crate) fn answers(&mut self, nodes: usize) -> Asked {
        let Self { server, mesh, runtime, .. } = self;
        let server = server.as_mut().expect("it runs");
        let background =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asked: Asked = Arc::new(Mutex::default());
        let mesh: Arc<Vec<Resource>> = Arc::new(mesh.values().cloned().collect());
        for _ in 0..nodes {
            let stream = runtime.block_on(server.stream());
            background.spawn(serve(stream, Arc::clone(&mesh), Arc::clone(&asked)));
        }
        self.asked = Some(background);
        asked
    }

    /// Says this to all, and returns once all have it in force.
    pub(crate) fn says(&mut self, resources: Vec<Resource>) {
        for kind in [ADDRESS, AUTHORIZATION] {
            let is_of = |r: &&Resource| r.resource.as_ref().is_some_and(|a| a.type_url == kind);
            let of_kind: Vec<Resource> = resources.iter().filter(is_of).cloned().collect();
            for resource in &of_kind {
                self.mesh.insert((kind, resource.name.clone()), resource.clone());
            }
            if !of_kind.is_empty() {
                self.push(kind, &of_kind, &[]);
            }
        }
    }

    /// The same of one type, with what goes, by name.
    pub(crate) fn changes(&mut self, kind: &'static str, upserted: Vec<Resource>, gone: &[String]) {
        for resource in &upserted {
            self.mesh.insert((kind, resource.name.clone()), resource.clone());
        }
        for name in gone {
            self.mesh.remove(&(kind, name.clone()));
        }
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        self.push(kind, &upserted, &gone);
    }

    /// Before it runs: a pod is not known yet.
    pub(crate) fn forgets(&mut self, pod: &str) {
        assert!(self.mesh.remove(&(ADDRESS, uid(pod))).is_some());
    }

    /// The same of a policy that is no more.
    pub(crate) fn takes_back(&mut self, policy: &str) {
        let name = format!("shop/{policy}");
        self.mesh.remove(&(AUTHORIZATION, name.clone()));
        self.push(AUTHORIZATION, &[], &[&name]);
    }

    fn push(&mut self, kind: &str, resources: &[Resource], removed: &[&str]) {
        for stream in self.streams.values_mut() {
            taken(&self.runtime.block_on(stream.push(kind, resources.to_vec(), removed)));
        }
    }

    /// Says addresses of which each node refuses some, and returns why, one for each.
    pub(crate) fn says_wrongly(&mut self, resources: Vec<Resource>) -> Vec<String> {
        let Self { streams, runtime, .. } = self;
        let mut push = |stream: &mut FakeStream| {
            let answer = runtime.block_on(stream.push(ADDRESS, resources.clone(), &[]));
            answer.error_detail.expect("a refusal").message
        };
        streams.values_mut().map(&mut push).collect()
    }

    /// Removes what all have been told, and returns once none has it any more.
    pub(crate) fn removes(&mut self, addresses: &[&str]) {
        for name in addresses {
            assert!(self.mesh.remove(&(ADDRESS, (*name).to_owned())).is_some(), "{name}");
        }
        self.push(ADDRESS, &[], addresses);
    }

    /// As a crash does.
    pub(crate) fn kill(&mut self) {
        self.streams.clear();
        if let Some(background) = self.asked.take() {
            background.shutdown_background();
        }
        self.server.take().expect("it runs").kill();
    }
}

#[track_caller]
fn taken(answer: &DeltaDiscoveryRequest) {
    assert_eq!(answer.error_detail, None, "the node takes it");
}
