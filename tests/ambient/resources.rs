//! What istiod says of the mesh, each with its type and its name.

use std::net::IpAddr;

use adit::rpc::{
    address::{
        Address, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList, Service,
        TunnelProtocol, Workload, address::Type, gateway_address::Destination,
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
    address_of(backing(pod, (pod, 8080), (node, address), policies))
}

/// The same of a trust domain.
pub(crate) fn workload_of(
    trust_domain: &str,
    pod: &str,
    node: &str,
    address: &str,
    policies: &[&str],
) -> Resource {
    let workload = backing(pod, (pod, 8080), (node, address), policies);
    address_of(Workload { trust_domain: trust_domain.into(), ..workload })
}

/// The same as [`workload`], and what else `change` says.
pub(crate) fn workload_with(
    pod: &str,
    node: &str,
    address: &str,
    change: impl FnOnce(&mut Workload),
) -> Resource {
    let mut workload = backing(pod, (pod, 8080), (node, address), &[]);
    change(&mut workload);
    address_of(workload)
}

/// The same behind another service, of whose port 80 it takes the calls at this one.
pub(crate) fn backing(
    pod: &str,
    (service, target_port): (&str, u32),
    (node, address): (&str, &str),
    policies: &[&str],
) -> Workload {
    let port = Port { service_port: 80, target_port, app_protocol: 0 };
    let service = format!("shop/{service}.shop.svc.cluster.local");
    Workload {
        uid: uid(pod),
        name: pod.into(),
        namespace: "shop".into(),
        service_account: pod.into(),
        addresses: vec![bytes(address)],
        node: node.into(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        canonical_name: pod.into(),
        workload_name: pod.into(),
        services: [(service, PortList { ports: vec![port] })].into(),
        authorization_policies: policies.iter().map(|name| format!("shop/{name}")).collect(),
        ..Workload::default()
    }
}

/// What istiod says of a workload.
pub(crate) fn address_of(workload: Workload) -> Resource {
    let uid = workload.uid.clone();
    let address = Address { r#type: Some(Type::Workload(workload)) };
    resource(ADDRESS, &uid, "", &address)
}

/// The service of a pod's name, at port 80.
pub(crate) fn service(pod: &str, vip: &str) -> Resource {
    service_with(pod, vip, |_| {})
}

/// The same, and what else `change` says.
pub(crate) fn service_with(pod: &str, vip: &str, change: impl FnOnce(&mut Service)) -> Resource {
    let hostname = format!("{pod}.shop.svc.cluster.local");
    let vip = network_address("", vip);
    let mut service = Service {
        name: pod.into(),
        namespace: "shop".into(),
        hostname: hostname.clone(),
        addresses: vec![vip],
        ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: 0 }],
        canonical: true,
        ..Service::default()
    };
    change(&mut service);
    let address = Address { r#type: Some(Type::Service(service)) };
    resource(ADDRESS, &format!("shop/{hostname}"), "", &address)
}

/// A waypoint or gateway that is found by this address, `network/address` if it is of another
/// network, or by this name of a service.
pub(crate) fn gateway(at: &str) -> Option<GatewayAddress> {
    let (network, address) = at.split_once('/').unwrap_or(("", at));
    let destination = match address.parse::<IpAddr>() {
        Ok(_) => Destination::Address(network_address(network, address)),
        Err(_) => {
            let (namespace, hostname) = ("shop".into(), at.into());
            Destination::Hostname(NamespacedHostname { namespace, hostname })
        }
    };
    Some(GatewayAddress { destination: Some(destination), hbone_mtls_port: 15008 })
}

fn network_address(network: &str, address: &str) -> NetworkAddress {
    NetworkAddress { network: network.into(), address: bytes(address), length: None }
}

/// A policy of what names it, which lets these service accounts through.
pub(crate) fn allow(policy: &str, accounts: &[&str]) -> Resource {
    let principal = |account: &&str| format!("cluster.local/ns/shop/sa/{account}");
    let principals: Vec<String> = accounts.iter().map(principal).collect();
    about(policy, Action::Allow, &principals)
}

/// The same, which keeps these principals out.
pub(crate) fn deny(policy: &str, principals: &[&str]) -> Resource {
    let principals: Vec<String> = principals.iter().map(ToString::to_string).collect();
    about(policy, Action::Deny, &principals)
}

fn about(policy: &str, action: Action, principals: &[String]) -> Resource {
    let exact =
        |principal: &String| StringMatch { match_type: Some(MatchType::Exact(principal.clone())) };
    let callers = Match { principals: principals.iter().map(exact).collect(), ..Match::default() };
    let authorization = Authorization {
        name: policy.into(),
        namespace: "shop".into(),
        scope: Scope::WorkloadSelector.into(),
        action: action.into(),
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
