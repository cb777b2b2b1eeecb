//! The settings of an ambient node, in the types in which Kiali decodes them: a key that has
//! another type there in some case is left out in that case.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    config::environment::Environment,
    credentials::{ControlPlane, Roots},
    hbone::http2::Limits,
    identity::TrustDomain,
};

/// Ports of each pod.
const OUTBOUND: u16 = 15001;
const PLAINTEXT: u16 = 15006;
const HBONE: u16 = 15008;
const DNS: u16 = 15053;
const SOCKS: u16 = 15080;

/// All that may be shown: values of headers and tokens are not.
#[must_use]
pub fn settings(environment: &Environment) -> Value {
    let mut all = Map::new();
    for part in [network(environment), identity(environment), limits(environment)] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    let planes =
        [("xds", "altXdsHostname", &environment.xds), ("ca", "altCaHostname", &environment.ca)];
    for (name, alternative, plane) in planes {
        let plane = plane.as_ref();
        all.insert(format!("{name}Address"), json!(plane.map(|plane| &plane.address)));
        let other = plane.and_then(|plane: &ControlPlane| plane.alternative_name.as_ref());
        let other = other.map(|name| name.to_str());
        all.insert(alternative.into(), json!(other));
        if let Some(Roots::File(path)) = plane.map(|plane| &plane.roots) {
            all.insert(format!("{name}RootCert"), json!({ "File": path }));
        }
    }
    Value::Object(all)
}

fn network(environment: &Environment) -> Value {
    let Environment { ipv6, admin_port, stats_port, readiness_port, .. } = environment;
    let any = |port: u16| if *ipv6 { format!("[::]:{port}") } else { format!("0.0.0.0:{port}") };
    let loopback = |port: u16| json!({ "Localhost": [ipv6, port] });
    let mut own_ports = vec![OUTBOUND, PLAINTEXT, HBONE];
    own_ports.extend(environment.socks5.then_some(SOCKS));
    let dns = match environment.dns_address {
        None => loopback(DNS),
        Some(address) => json!({ "SocketAddr": address }),
    };
    json!({
        "proxy": environment.proxy,
        "dnsProxy": environment.dns_proxy,
        "adminAddr": loopback(*admin_port),
        "statsAddr": { "SocketAddr": any(*stats_port) },
        "readinessAddr": { "SocketAddr": any(*readiness_port) },
        "inboundAddr": any(HBONE),
        "inboundPlaintextAddr": any(PLAINTEXT),
        "outboundAddr": any(OUTBOUND),
        "dnsProxyAddr": dns,
        "socks5Addr": environment.socks5.then(|| format!("127.0.0.1:{SOCKS}")),
        "illegalPorts": own_ports,
        "network": environment.network,
        "ipv6Enabled": ipv6,
        "inpodUds": environment.zds_socket,
        "inpodPortReuse": environment.reuse_port,
        "packetMark": environment.packet_mark,
        "localhostAppTunnel": environment.localhost_app_tunnel,
        "outboundTrafficPolicy": environment.outbound_traffic_policy.as_str(),
        "nonTcp": environment.non_tcp.as_str(),
    })
}

fn identity(environment: &Environment) -> Value {
    let own = environment.own.as_ref();
    let id = own.and_then(|own| own.id(&environment.trust_domain).ok());
    let aliases: Vec<_> =
        environment.trust_domain_aliases.iter().map(TrustDomain::as_str).collect();
    json!({
        "proxyMode": "Shared",
        "proxyArgs": environment.arguments,
        "proxyMetadata": environment.proxy_metadata,
        "localNode": environment.node_name,
        "clusterId": environment.cluster_id,
        "clusterDomain": environment.cluster_domain,
        "preferedServiceNamespace": environment.preferred_service_namespace,
        "fakeCa": false,
        "fakeSelfInbound": false,
        "secretTtl": duration(environment.svid_lifetime),
        "crlPath": environment.crl,
        "trustDomainAliases": aliases,
        "compliancePolicy": environment.post_quantum.then_some("pqc"),
        "svidSource": environment.svid_source.as_str(),
        "leafKeyUsage": environment.key_usage.as_str(),
        "enableEnhancedBaggage": environment.response_baggage,
        "ztunnelIdentity": id.map(|id| id.to_string()),
        "ztunnelWorkload": own.map(|own| json!({
            "name": own.name,
            "namespace": own.namespace,
            "serviceAccount": own.service_account,
        })),
    })
}

/// As they are in force.
fn limits(environment: &Environment) -> Value {
    let (tunnels, http2) = (&environment.tunnels, Limits::default());
    let keepalive = tunnels.keepalive;
    json!({
        "xdsOnDemand": environment.xds_on_demand,
        "windowSize": http2.stream_window,
        "windowSizeMost": tunnels.stream_window_most,
        "connectionWindowSize": tunnels.connection_window,
        "frameSize": tunnels.max_frame,
        "originalPortHbone": tunnels.original_port.as_str(),
        "poolMaxStreamsPerConn": tunnels.max_streams,
        "poolUnusedReleaseTimeout": duration(tunnels.idle),
        "numWorkerThreads": environment.workers,
        "selfTerminationDeadline": duration(environment.drain),
        "socketConfig": {
            "keepaliveTime": duration(keepalive.time),
            "keepaliveInterval": duration(keepalive.interval),
            "keepaliveRetries": keepalive.retries,
            "keepaliveEnabled": keepalive.enabled,
            "userTimeoutEnabled": false,
        },
    })
}

fn duration(duration: Duration) -> Value {
    json!({ "secs": duration.as_secs(), "nanos": duration.subsec_nanos() })
}
