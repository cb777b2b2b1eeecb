//! A service as programs read it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::workload::{GatewayDump, status};
use crate::mesh::{
    Balancing, BalancingMode, Families, LocalityScope, Service, ServicePort, View, Workload,
};

/// One service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDump {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its host name.
    pub hostname: String,
    /// Its virtual addresses, `network/address`.
    pub vips: Vec<String>,
    /// Its virtual networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<CidrDump>,
    /// From its ports to those of its workloads.
    pub ports: BTreeMap<String, u16>,
    /// The workloads behind it, by uid.
    pub endpoints: BTreeMap<String, EndpointDump>,
    /// Who else may answer for it.
    pub subject_alt_names: Vec<String>,
    /// The waypoint that calls to this service go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    /// Of these one is chosen for each connection.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weighted_waypoints: Vec<WeightedDump>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<BalancingDump>,
    /// `Dual`, `IPv4` or `IPv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_families: Option<&'static str>,
    /// Whether of several with one name or address this one is meant.
    pub canonical: bool,
    /// `Public` or `Namespace`.
    pub visibility: &'static str,
}

/// A virtual network.
#[derive(Clone, Debug, Serialize)]
pub struct CidrDump {
    /// The network in which it means the service.
    pub network: String,
    /// Such as `10.0.0.0/24`.
    pub cidr: String,
}

/// A workload behind a service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDump {
    /// Its uid.
    pub workload_uid: String,
    /// From the ports of the service to its own.
    pub port: BTreeMap<String, u16>,
    /// `Healthy` or `Unhealthy`.
    pub status: &'static str,
}

/// A waypoint and its weight.
#[derive(Clone, Debug, Serialize)]
pub struct WeightedDump {
    /// The waypoint.
    pub destination: GatewayDump,
    /// Its weight.
    pub weight: u32,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancingDump {
    /// What is preferred, most first.
    pub routing_preferences: Vec<&'static str>,
    /// How strongly that counts.
    pub mode: &'static str,
    /// `OnlyHealthy` or `AllowAll`.
    pub health_policy: &'static str,
}

impl BalancingDump {
    fn of(balancing: &Balancing) -> Self {
        let scope = |scope: &LocalityScope| match scope {
            LocalityScope::Region => "Region",
            LocalityScope::Zone => "Zone",
            LocalityScope::Subzone => "Subzone",
            LocalityScope::Node => "Node",
            LocalityScope::Cluster => "Cluster",
            LocalityScope::Network => "Network",
        };
        Self {
            routing_preferences: balancing.preferences.iter().map(scope).collect(),
            mode: match balancing.mode {
                BalancingMode::Standard => "Standard",
                BalancingMode::Strict => "Strict",
                BalancingMode::Failover => "Failover",
                BalancingMode::Passthrough => "Passthrough",
            },
            health_policy: if balancing.any_health { "AllowAll" } else { "OnlyHealthy" },
        }
    }
}

impl EndpointDump {
    /// `own` are the ports that the workload has elsewhere than the service says.
    fn of(service: &Service, workload: &Workload, own: &[ServicePort]) -> Self {
        let all = service.ports.iter().chain(own);
        Self {
            workload_uid: workload.uid.to_string(),
            port: all.map(|port| (port.port.to_string(), port.target_port)).collect(),
            status: status(workload),
        }
    }
}

impl ServiceDump {
    pub(super) fn of(mesh: &View, service: &Service) -> Self {
        let ports = service.ports.iter();
        let endpoints = mesh.endpoints(service).map(|(workload, own)| {
            (workload.uid.to_string(), EndpointDump::of(service, workload, own))
        });
        let cidr = |(network, net): &(std::sync::Arc<str>, ipnet::IpNet)| CidrDump {
            network: network.to_string(),
            cidr: net.to_string(),
        };
        let weighted = service.weighted_waypoints.iter();
        Self {
            name: service.name.to_string(),
            namespace: service.namespace.to_string(),
            hostname: service.hostname.to_string(),
            vips: service.vips.iter().map(|vip| format!("{}/{}", vip.network, vip.ip)).collect(),
            cidr_vips: service.cidr_vips.iter().map(cidr).collect(),
            ports: ports.map(|p| (p.port.to_string(), p.target_port)).collect(),
            endpoints: endpoints.collect(),
            subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
            waypoint: service.waypoint.as_deref().map(GatewayDump::of),
            weighted_waypoints: weighted
                .map(|(to, weight)| WeightedDump {
                    destination: GatewayDump::of(to),
                    weight: *weight,
                })
                .collect(),
            load_balancer: service.balancing.as_ref().map(BalancingDump::of),
            ip_families: match service.families {
                Families::Automatic => None,
                Families::Dual => Some("Dual"),
                Families::Ipv4 => Some("IPv4"),
                Families::Ipv6 => Some("IPv6"),
            },
            canonical: service.is_canonical,
            visibility: if service.is_private { "Namespace" } else { "Public" },
        }
    }
}
