//! A workload.

use std::sync::Arc;

use super::parts::{
    Checked, MAX_LIST, gateway, if_any, ip, known, list, port, ports, service_key, text,
};
use crate::{
    identity::{SpiffeId, TrustDomain},
    mesh::{
        AppNames, AppTunnel, Labels, Locality, Membership, Protocol, Template, Workload,
        WorkloadKind,
    },
    rpc::address::{
        ApplicationTunnel, NetworkMode, PortList, TunnelProtocol, Workload as Sent, WorkloadStatus,
        WorkloadType, application_tunnel::Protocol as AppProtocol,
    },
};

pub(super) fn workload(name: &Arc<str>, mut sent: Sent) -> Checked<Workload> {
    if sent.uid != **name {
        return Err("its uid differs from its resource name".into());
    }
    let addresses = list("addresses", std::mem::take(&mut sent.addresses))?;
    let addresses = addresses.iter().map(|bytes| ip("addresses", bytes)).collect::<Checked<_>>()?;
    let status: WorkloadStatus = known("status", sent.status)?;
    Ok(Workload {
        uid: Arc::clone(name),
        name: (*text("name", std::mem::take(&mut sent.name))?).into(),
        addresses,
        node: if_any("node", std::mem::take(&mut sent.node))?,
        healthy: status == WorkloadStatus::Healthy,
        template: Arc::new(template(sent)?),
        local: None,
    })
}

fn template(sent: Sent) -> Checked<Template> {
    let id = id(&sent)?;
    let policies = list("authorization_policies", sent.authorization_policies)?;
    let policies = policies.into_iter().map(|name| text("authorization_policies", name));
    let locality = sent.locality.unwrap_or_default();
    let tunnel = sent.application_tunnel.map(app_tunnel).transpose()?;
    let host_network = known::<NetworkMode>("network_mode", sent.network_mode)?;
    Ok(Template {
        network: text("network", sent.network)?,
        namespace: text("namespace", sent.namespace)?,
        id,
        labels: Labels::default(),
        protocol: protocol(sent.tunnel_protocol)?,
        policies: policies.collect::<Checked<_>>()?,
        services: memberships(sent.services)?,
        app: AppNames {
            workload: text("workload_name", sent.workload_name)?,
            kind: kind(sent.workload_type),
            canonical_name: text("canonical_name", sent.canonical_name)?,
            canonical_revision: text("canonical_revision", sent.canonical_revision)?,
        },
        cluster: if_any("cluster_id", sent.cluster_id)?.unwrap_or_else(|| "Kubernetes".into()),
        locality: Locality {
            region: text("region", locality.region)?,
            zone: text("zone", locality.zone)?,
            subzone: text("subzone", locality.subzone)?,
        },
        waypoint: sent.waypoint.map(|sent| gateway("waypoint", sent)).transpose()?,
        network_gateway: sent
            .network_gateway
            .map(|sent| gateway("network_gateway", sent))
            .transpose()?,
        app_tunnel: tunnel,
        hostname: if_any("hostname", sent.hostname)?,
        host_network: host_network == NetworkMode::HostNetwork,
        native_tunnel: sent.native_tunnel,
        capacity: sent.capacity.unwrap_or(1),
    })
}

fn id(sent: &Sent) -> Checked<SpiffeId> {
    let given = |text: &'_ str, unless: &'static str| match text {
        "" => unless.to_owned(),
        text => text.to_owned(),
    };
    let domain = given(&sent.trust_domain, "cluster.local");
    let domain: TrustDomain = domain.parse().map_err(|e| format!("trust_domain: {e}"))?;
    let account = given(&sent.service_account, "default");
    SpiffeId::for_service_account(&domain, &sent.namespace, &account).map_err(|e| {
        format!("its namespace and service account do not make a valid SPIFFE ID: {e}")
    })
}

/// A sidecar's own mTLS is refused, as ztunnel does, and not taken for plain TCP: where the last
/// good version said HBONE, that stays in force, and one message cannot turn an encrypted workload
/// into one that is reached in clear text.
fn protocol(value: i32) -> Checked<Protocol> {
    match known("tunnel_protocol", value)? {
        TunnelProtocol::None => Ok(Protocol::Tcp),
        TunnelProtocol::Hbone => Ok(Protocol::Hbone),
        TunnelProtocol::LegacyIstioMtls => {
            Err("tunnel_protocol LEGACY_ISTIO_MTLS is not supported".into())
        }
    }
}

/// It is only told, so an unknown one does no harm.
fn kind(value: i32) -> WorkloadKind {
    match WorkloadType::try_from(value) {
        Ok(WorkloadType::Deployment) | Err(_) => WorkloadKind::Deployment,
        Ok(WorkloadType::Cronjob) => WorkloadKind::CronJob,
        Ok(WorkloadType::Pod) => WorkloadKind::Pod,
        Ok(WorkloadType::Job) => WorkloadKind::Job,
    }
}

fn app_tunnel(sent: ApplicationTunnel) -> Checked<AppTunnel> {
    let protocol: AppProtocol = known("application_tunnel", sent.protocol)?;
    let port = port("application_tunnel", sent.port)?;
    Ok(AppTunnel {
        proxy_protocol: protocol == AppProtocol::Proxy,
        port: Some(port).filter(|port| *port != 0),
    })
}

fn memberships(sent: std::collections::HashMap<String, PortList>) -> Checked<Arc<[Membership]>> {
    if sent.len() > MAX_LIST {
        return Err(format!("services has {} entries, the limit is {MAX_LIST}", sent.len()));
    }
    let one = |(key, sent): (String, PortList)| {
        let key = text("services", key)?;
        let (namespace, hostname) =
            service_key(&key).ok_or("services has a key that is not NAMESPACE/HOSTNAME")?;
        let ports = ports("services", sent.ports)?.into();
        Ok(Membership { namespace: namespace.into(), hostname: hostname.into(), ports })
    };
    let mut all = sent.into_iter().map(one).collect::<Checked<Vec<_>>>()?;
    all.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
    Ok(all.into())
}
