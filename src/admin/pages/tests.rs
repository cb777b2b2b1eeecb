//! Pages, without a socket.

use std::{net::IpAddr, time::Duration};

use arc_swap::ArcSwap;

use super::*;
use crate::{
    authority::EmbeddedCa,
    config::environment::{Environment, Surroundings},
    credentials::Svids,
    hbone::{TunnelConfig, TunnelRegistry},
    lifecycle::Tasks,
    mesh::{MtlsMode, Store, Template, Workload},
    observe::{
        Telemetry,
        logging::{LogFormat, Logging},
    },
    relay,
    roles::node::Node,
};

const WORKLOADS: u32 = 2_000;

fn large() -> Store {
    let mut store = Store::new("td".parse().unwrap(), MtlsMode::Permissive);
    let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
    let template = Arc::new(Template::new("shop".into(), id));
    for n in 0..WORKLOADS {
        store.upsert_workload(Workload {
            uid: format!("shop/web-{n}").into(),
            name: format!("web-{n}").into(),
            addresses: [IpAddr::from((0x0a00_0000 + n).to_be_bytes())].into(),
            node: None,
            healthy: true,
            template: Arc::clone(&template),
            local: None,
        });
    }
    store
}

fn state(dir: &std::path::Path, store: &Store) -> Arc<State> {
    let ca = EmbeddedCa::open(dir, &"td".parse().unwrap(), Duration::from_secs(60)).unwrap();
    let telemetry = Telemetry::new().unwrap();
    let metrics = Arc::clone(&telemetry.metrics);
    let node = Node {
        mesh: Arc::new(ArcSwap::from_pointee(store.view())),
        dns: None,
        localhost_app_tunnel: true,
        endpoints: Default::default(),
        on_demand: None,
        outbound_traffic_policy: Default::default(),
        original_port: Default::default(),
        svids: Arc::new(Svids::new(Arc::new(ca), metrics, Tasks::default())),
        tunnels: Arc::new(TunnelRegistry::default()),
        telemetry,
        tunnel: TunnelConfig::default(),
        limits: relay::Limits::default(),
        sockmap: None,
        workers: Vec::new(),
        pods: Arc::default(),
        listeners: Arc::default(),
    };
    let around = Surroundings { cores: 1, exists: &|_| false, read: &|_| Ok(None) };
    let environment = Environment::read([], &[], &around).unwrap();
    let logging = Logging::start(LogFormat::Text, "off").unwrap();
    Arc::new(State::ambient(Arc::new(node), Arc::new(environment), logging))
}

#[tokio::test]
async fn a_dump_of_a_large_mesh_leaves_the_control_thread_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path(), &large());
    let request = Request::get("/config_dump").body(Bytes::new()).unwrap();
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        answer = page(&state, Endpoint::Admin, &request) => assert_eq!(answer.status(), 200),
        () = others => {}
    }
    assert!(turns > 2, "{turns} turns");
}
