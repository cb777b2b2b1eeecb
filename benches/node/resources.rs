//! What istiod says of a mesh: deployments of ten pods in namespaces of fifty deployments; each
//! deployment has a service account, a service with a virtual address, and a policy.

use std::net::Ipv4Addr;

use adit::rpc::{
    address::{
        Address, Locality, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload,
        address::Type,
    },
    authorization::{
        Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
    },
    discovery::Resource,
};

use crate::fake_istiod::{ADDRESS, AUTHORIZATION, resource};

const REPLICAS: usize = 10;
const DEPLOYMENTS_OF_A_NAMESPACE: usize = 50;
const PODS_OF_A_NODE: usize = 50;

pub(crate) struct Mesh {
    workloads: usize,
}

impl Mesh {
    /// Of so many workloads beside the node's own.
    pub(crate) fn of(workloads: usize) -> Self {
        Self { workloads }
    }

    /// All of type Address, all of type Authorization. Each revision is other than the one before,
    /// in every workload.
    pub(crate) fn resources(&self, revision: usize) -> [Vec<Resource>; 2] {
        [self.addresses(revision), (0..self.services()).map(policy).collect()]
    }

    fn addresses(&self, revision: usize) -> Vec<Resource> {
        let own = [own("web", "10.77.0.1"), own("db", "10.77.0.2")];
        let workloads = (0..self.workloads).map(|n| self.workload(n, n, revision));
        let services = (0..self.services()).map(service);
        own.into_iter().chain(workloads).chain(services).collect()
    }

    /// A workload that has another address than ever before.
    pub(crate) fn moved(&self, turn: usize) -> Resource {
        self.workload(turn * 7919 % self.workloads, self.workloads + turn, 2)
    }

    fn services(&self) -> usize {
        self.workloads / REPLICAS
    }

    fn workload(&self, n: usize, address: usize, revision: usize) -> Resource {
        let of = n / REPLICAS;
        let (namespace, deployment) = (namespace(of), deployment(of));
        let hash = of.wrapping_mul(0x9e37_79b9) & 0xff_ffff_ffff;
        let own = n.wrapping_mul(0x85eb_ca6b) & 0xf_ffff;
        let name = format!("{deployment}-{hash:010x}-{own:05x}");
        let uid = format!("Kubernetes//Pod/{namespace}/{name}");
        let port = Port { service_port: 80, target_port: 8080, app_protocol: 0 };
        let address = u32::try_from(address).expect("few");
        let workload = Workload {
            uid: uid.clone(),
            name,
            addresses: vec![Ipv4Addr::from(0x0b00_0000 + address).octets().into()],
            node: format!("ip-10-0-{}.internal", n / PODS_OF_A_NODE),
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            service_account: deployment.clone(),
            canonical_name: deployment.clone(),
            canonical_revision: format!("v{revision}"),
            workload_name: deployment.clone(),
            services: [(format!("{namespace}/{}", hostname(of)), PortList { ports: vec![port] })]
                .into(),
            authorization_policies: vec![format!("{namespace}/only-{deployment}")],
            cluster_id: "Kubernetes".into(),
            locality: Some(Locality {
                region: "eu-central-1".into(),
                zone: "eu-central-1a".into(),
                subzone: String::new(),
            }),
            namespace,
            ..Workload::default()
        };
        sent(&uid, Type::Workload(workload), (n + 1) * 0x1_0000_0000 + address as usize + revision)
    }
}

/// A pod of the node under test.
fn own(pod: &str, address: &str) -> Resource {
    let address: Ipv4Addr = address.parse().unwrap();
    let uid = format!("Kubernetes//Pod/shop/{pod}");
    let workload = Workload {
        uid: uid.clone(),
        name: pod.into(),
        namespace: "shop".into(),
        service_account: pod.into(),
        addresses: vec![address.octets().into()],
        node: "n1".into(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        canonical_name: pod.into(),
        workload_name: pod.into(),
        ..Workload::default()
    };
    sent(&uid, Type::Workload(workload), 1)
}

fn service(n: usize) -> Resource {
    let (namespace, hostname) = (namespace(n), hostname(n));
    let vip = Ipv4Addr::from(0x0a60_0000 + u32::try_from(n).expect("few")).octets().into();
    let port = |service_port, target_port| Port { service_port, target_port, app_protocol: 0 };
    let service = Service {
        name: deployment(n),
        namespace: namespace.clone(),
        hostname: hostname.clone(),
        addresses: vec![NetworkAddress { network: String::new(), address: vip, length: None }],
        ports: vec![port(80, 8080), port(9090, 9090)],
        canonical: true,
        ..Service::default()
    };
    sent(&format!("{namespace}/{hostname}"), Type::Service(service), n + 1)
}

fn policy(n: usize) -> Resource {
    let (namespace, name) = (namespace(n), format!("only-{}", deployment(n)));
    let caller = format!("cluster.local/ns/{namespace}/sa/web-frontend-{n}");
    let principals = vec![StringMatch { match_type: Some(MatchType::Exact(caller)) }];
    let matches = vec![Match { principals, ..Match::default() }];
    let key = format!("{namespace}/{name}");
    let authorization = Authorization {
        name,
        namespace,
        scope: Scope::WorkloadSelector.into(),
        action: Action::Allow.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    };
    resource(AUTHORIZATION, &key, "", &authorization)
}

/// With a version, as istiod gives one to each.
fn sent(name: &str, content: Type, version: usize) -> Resource {
    let version = format!("{:x}", version.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 60);
    resource(ADDRESS, name, &version, &Address { r#type: Some(content) })
}

fn namespace(deployment: usize) -> String {
    format!("team-{:03}", deployment / DEPLOYMENTS_OF_A_NAMESPACE)
}

fn deployment(n: usize) -> String {
    const NAMES: [&str; 5] = ["checkout", "catalog-api", "payments", "web-frontend", "ledger"];
    format!("{}-{n}", NAMES[n % NAMES.len()])
}

fn hostname(n: usize) -> String {
    format!("{}.{}.svc.cluster.local", deployment(n), namespace(n))
}
