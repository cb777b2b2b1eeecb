//! What istiod says of the mesh, each with its type and its name.

use std::net::IpAddr;

use adit::rpc::{
    address::{
        Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, address::Type,
    },
    authorization::{
        Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
    },
    discovery::Resource,
};

use crate::fake_istiod::{ADDRESS, AUTHORIZATION, resource};

/// The name that the mesh has for a pod.
pub(crate) fn uid(pod: &str) -> String {
    format!("Kubernetes//Pod/shop/{pod}")
}

/// A pod of a node, which backs the service of its name and is selected by these policies.
pub(crate) fn workload(pod: &str, node: &str, address: &str, policies: &[&str]) -> Resource {
    workload_of("", pod, node, address, policies)
}

/// The same of a trust domain; empty is that of the mesh.
pub(crate) fn workload_of(
    trust_domain: &str,
    pod: &str,
    node: &str,
    address: &str,
    policies: &[&str],
) -> Resource {
    let port = Port { service_port: 80, target_port: 8080, app_protocol: 0 };
    let service = format!("shop/{pod}.shop.svc.cluster.local");
    let workload = Workload {
        uid: uid(pod),
        name: pod.into(),
        namespace: "shop".into(),
        service_account: pod.into(),
        trust_domain: trust_domain.into(),
        addresses: vec![bytes(address)],
        node: node.into(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        canonical_name: pod.into(),
        workload_name: pod.into(),
        services: [(service, PortList { ports: vec![port] })].into(),
        authorization_policies: policies.iter().map(|name| format!("shop/{name}")).collect(),
        ..Workload::default()
    };
    let address = Address { r#type: Some(Type::Workload(workload)) };
    resource(ADDRESS, &uid(pod), "", &address)
}

/// The service of a pod's name, at port 80.
pub(crate) fn service(pod: &str, vip: &str) -> Resource {
    let hostname = format!("{pod}.shop.svc.cluster.local");
    let vip = NetworkAddress { network: String::new(), address: bytes(vip), length: None };
    let service = Service {
        name: pod.into(),
        namespace: "shop".into(),
        hostname: hostname.clone(),
        addresses: vec![vip],
        ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }],
        canonical: true,
        ..Service::default()
    };
    let address = Address { r#type: Some(Type::Service(service)) };
    resource(ADDRESS, &format!("shop/{hostname}"), "", &address)
}

/// A policy of what names it, which lets these service accounts through.
pub(crate) fn allow(policy: &str, accounts: &[&str]) -> Resource {
    let exact = |account: &&str| {
        let principal = format!("cluster.local/ns/shop/sa/{account}");
        StringMatch { match_type: Some(MatchType::Exact(principal)) }
    };
    let callers = Match { principals: accounts.iter().map(exact).collect(), ..Match::default() };
    let authorization = Authorization {
        name: policy.into(),
        namespace: "shop".into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Allow.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![callers] }] }],
        ..Authorization::default()
    };
    resource(AUTHORIZATION, &format!("shop/{policy}"), "", &authorization)
}

/// What istiod makes of a strict PeerAuthentication: who has shown no identity is denied.
pub(crate) fn strict_mtls(policy: &str) -> Resource {
    let present = StringMatch { match_type: Some(MatchType::Presence(())) };
    let plaintext = Match { not_principals: vec![present], ..Match::default() };
    let authorization = Authorization {
        name: policy.into(),
        namespace: "shop".into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![plaintext] }] }],
        ..Authorization::default()
    };
    resource(AUTHORIZATION, &format!("shop/{policy}"), "", &authorization)
}

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
