//! The istiod of a mesh: it follows one node.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use adit::rpc::discovery::{DeltaDiscoveryResponse, Resource};
use tokio::{
    runtime::{Builder, Runtime},
    time::{MissedTickBehavior, interval},
};

use crate::{
    fake_istiod::{ADDRESS, AUTHORIZATION, FakeIstiod, FakeStream},
    lab::Lab,
    pki::{Ca, ip},
    resources::Mesh,
};

/// Where it is, in its own namespace.
pub(crate) const AT: &str = "10.77.0.250:15012";
/// How long a node may take for all that it is told at once.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Istiod {
    server: FakeIstiod,
    stream: Option<FakeStream>,
    /// What it says first, made before anybody waits for it.
    first: Option<[Vec<Resource>; 2]>,
    runtime: Runtime,
}

impl Istiod {
    /// It waits for the node, and leaves it files with its root and a token.
    pub(crate) fn new(lab: &Lab, mesh: &Mesh) -> Self {
        let ca = Arc::new(Ca::new("the mesh", Some("spiffe://cluster.local")));
        let at: SocketAddr = AT.parse().unwrap();
        let leaf = ca.leaf("istiod", |p| p.subject_alt_names = vec![ip(&at.ip().to_string())]);
        std::fs::write(lab.file("root-cert.pem"), ca.pem()).unwrap();
        std::fs::write(lab.file("istio-token"), "a-token").unwrap();
        let start = || FakeIstiod::start_signing(at, &leaf, ca);
        let server = lab.netns("istiod").run(start).unwrap();
        let first = Some(mesh.resources(1));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { server, stream: None, first, runtime }
    }

    /// The node comes, hears of the whole mesh, and has it in force.
    pub(crate) fn meets(&mut self) {
        let resources = self.first.take().expect("it meets one node");
        self.stream = Some(self.runtime.block_on(async {
            let mut stream = self.server.stream().await;
            stream.limit = LIMIT;
            stream.first().await;
            says(&mut stream, resources).await;
            stream
        }));
    }

    /// Says the whole mesh, and returns once the node has it in force.
    pub(crate) fn pushes(&mut self, resources: [Vec<Resource>; 2]) {
        let stream = self.stream.as_mut().expect("the node came");
        self.runtime.block_on(says(stream, resources));
    }

    /// Moves workloads to other addresses, one in each response, `rate` of them a second; how long
    /// after the last one all are acknowledged.
    pub(crate) fn moves(&mut self, mesh: &Mesh, rate: u32, seconds: u32) -> Duration {
        let stream = self.stream.as_mut().expect("the node came");
        self.runtime.block_on(async {
            let mut due = interval(Duration::from_secs(1) / rate);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut heard = 0;
            let mut last = String::new();
            for n in 0..rate * seconds {
                due.tick().await;
                let response = DeltaDiscoveryResponse {
                    type_url: ADDRESS.into(),
                    resources: vec![mesh.moved(n as usize)],
                    ..DeltaDiscoveryResponse::default()
                };
                last = stream.send(response).await;
                heard += stream.heard();
            }
            let begin = Instant::now();
            for _ in heard..(rate * seconds) as usize {
                let answer = stream.request().await;
                assert_eq!(answer.error_detail, None, "of {last} or before");
            }
            begin.elapsed()
        })
    }
}

async fn says(stream: &mut FakeStream, [addresses, policies]: [Vec<Resource>; 2]) {
    for (kind, resources) in [(ADDRESS, addresses), (AUTHORIZATION, policies)] {
        assert_eq!(stream.push(kind, resources, &[]).await.error_detail, None);
    }
}
