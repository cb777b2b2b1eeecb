//! A workload as programs read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use crate::mesh::{AppTunnel, Gateway, Locality, Protocol, Workload};

/// One workload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadDump {
    /// Unique in the mesh.
    pub uid: String,
    /// Its addresses.
    pub workload_ips: Vec<IpAddr>,
    /// The waypoint that calls to its addresses go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<GatewayDump>,
    /// The gateway that calls from other networks go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<GatewayDump>,
    /// How it is reached.
    pub protocol: Protocol,
    /// `Standard` or `HostNetwork`.
    pub network_mode: &'static str,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Of its SPIFFE ID.
    pub trust_domain: String,
    /// Its service account.
    pub service_account: String,
    /// The network in which its addresses mean it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// What it is part of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload_name: String,
    /// What that is: `deployment`, `cronjob`, `pod` or `job`.
    pub workload_type: &'static str,
    /// Istio's canonical service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub canonical_name: String,
    /// Its revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub canonical_revision: String,
    /// A name for one without an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Whether it speaks HBONE itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub native_tunnel: bool,
    /// How its application gets HBONE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_tunnel: Option<AppTunnelDump>,
    /// The policies that select it by label, `namespace/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_policies: Vec<String>,
    /// `Healthy` or `Unhealthy`, as its platform says.
    pub status: &'static str,
    /// Its cluster.
    pub cluster_id: String,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityDump>,
    /// The services in front of it, `namespace/hostname`.
    pub services: Vec<String>,
    /// Its weight among their endpoints.
    pub capacity: u32,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A waypoint or gateway.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayDump {
    /// `network/address` or `namespace/hostname`.
    pub destination: String,
    /// The port at which it takes HBONE.
    pub hbone_mtls_port: u16,
}

impl GatewayDump {
    pub(super) fn of(gateway: &Gateway) -> Self {
        Self { destination: gateway.destination.to_string(), hbone_mtls_port: gateway.hbone_port }
    }
}

/// How an application gets HBONE.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AppTunnelDump {
    /// `NONE` or `PROXY`.
    pub protocol: &'static str,
    /// Its port.
    pub port: Option<u16>,
}

impl AppTunnelDump {
    fn of(tunnel: AppTunnel) -> Self {
        let protocol = if tunnel.proxy_protocol { "PROXY" } else { "NONE" };
        Self { protocol, port: tunnel.port }
    }
}

/// Where a workload runs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LocalityDump {
    /// The region.
    pub region: String,
    /// The zone.
    pub zone: String,
    /// The part of the zone.
    pub subzone: String,
}

impl LocalityDump {
    fn of(locality: &Locality) -> Option<Self> {
        let Locality { region, zone, subzone } = locality;
        let given = *locality != Locality::default();
        let [region, zone, subzone] = [region, zone, subzone].map(ToString::to_string);
        given.then_some(Self { region, zone, subzone })
    }
}

/// As istioctl compares it.
pub(super) fn status(workload: &Workload) -> &'static str {
    if workload.healthy { "Healthy" } else { "Unhealthy" }
}

impl WorkloadDump {
    pub(super) fn of(workload: &Workload) -> Self {
        let services = workload.services().iter();
        let services: BTreeSet<_> =
            services.map(|s| format!("{}/{}", s.namespace, s.hostname)).collect();
        let labels = workload.labels().iter();
        let of = &*workload.template;
        Self {
            uid: workload.uid.to_string(),
            workload_ips: workload.addresses.to_vec(),
            waypoint: of.waypoint.as_deref().map(GatewayDump::of),
            network_gateway: of.network_gateway.as_deref().map(GatewayDump::of),
            protocol: workload.protocol(),
            network_mode: if of.host_network { "HostNetwork" } else { "Standard" },
            name: workload.name().to_owned(),
            namespace: workload.namespace().to_string(),
            trust_domain: workload.id().trust_domain().as_str().to_owned(),
            service_account: workload.service_account().to_owned(),
            network: of.network.to_string(),
            workload_name: of.app.workload.to_string(),
            workload_type: of.app.kind.as_str(),
            canonical_name: of.app.canonical_name.to_string(),
            canonical_revision: of.app.canonical_revision.to_string(),
            hostname: of.hostname.as_deref().map(ToOwned::to_owned),
            node: workload.node.as_deref().map(ToOwned::to_owned),
            native_tunnel: of.native_tunnel,
            application_tunnel: of.app_tunnel.map(AppTunnelDump::of),
            authorization_policies: of.policies.iter().map(ToString::to_string).collect(),
            status: status(workload),
            cluster_id: of.cluster.to_string(),
            locality: LocalityDump::of(&of.locality),
            services: services.into_iter().collect(),
            capacity: of.capacity,
            identity: workload.id().as_str().to_owned(),
            labels: labels.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        }
    }
}
