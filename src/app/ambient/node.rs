//! What a node has of its environment: tunnels, and the source of SVIDs.

use std::sync::Arc;

use tokio::sync::watch::Receiver;

use crate::{
    config::environment::{Environment, SvidSource},
    credentials::{
        CrlFileStatus, Istiod, IstiodConfig, Source, WithCrls, broker::Broker,
        workload_api::WorkloadApi,
    },
    hbone::TunnelConfig,
    lifecycle::Tasks,
    mesh::source::xds::XdsConfig,
    proxy::dns::{DnsConfig, Naming},
    roles::node::{NodeConfig, OriginalSource},
};

/// Tunnels as the environment has them.
pub(super) fn tunnels(environment: &Environment) -> TunnelConfig {
    let tunnels = &environment.tunnels;
    let mut config = TunnelConfig {
        max_streams: tunnels.max_streams.get().into(),
        idle: tunnels.idle,
        keepalive: tunnels.keepalive,
        ..TunnelConfig::default()
    };
    config.limits.connection_window = tunnels.connection_window;
    config.limits.stream_window_most = tunnels.stream_window_most;
    config.limits.max_frame = tunnels.max_frame;
    config
}

/// How pods are treated as the environment has it.
pub(super) fn config(environment: &Environment) -> NodeConfig {
    NodeConfig {
        aliases: environment.trust_domain_aliases.clone(),
        localhost_app_tunnel: environment.localhost_app_tunnel,
        socks5: environment.socks5,
        original_port: environment.tunnels.original_port,
        response_baggage: environment.response_baggage,
        original_source: match environment.original_source {
            None => OriginalSource::WherePossible,
            Some(true) => OriginalSource::Required,
            Some(false) => OriginalSource::Off,
        },
        ipv6: environment.ipv6,
    }
}

/// How DNS queries of pods are answered, if they are.
pub(super) fn dns(environment: &Environment) -> Option<DnsConfig> {
    let config = DnsConfig {
        naming: Naming {
            cluster_domain: environment.cluster_domain.clone(),
            preferred_namespace: environment.preferred_service_namespace.clone(),
            ipv6: environment.ipv6,
        },
        ..DnsConfig::default()
    };
    let both = config.listen.iter().copied();
    let loopback = || both.filter(|address| address.is_ipv4() || environment.ipv6).collect();
    let listen = environment.dns_address.map_or_else(loopback, |address| vec![address]);
    environment.dns_proxy.then_some(DnsConfig { listen, ..config })
}

/// Where SVIDs come from. Needs a running runtime.
///
/// # Errors
/// If the environment names none.
pub(super) fn source(environment: &Environment) -> anyhow::Result<Arc<dyn Source>> {
    match &environment.svid_source {
        SvidSource::Istiod => istiod(environment),
        SvidSource::WorkloadApi(endpoint) => Ok(Arc::new(WorkloadApi::follow(endpoint))),
        SvidSource::Broker(config) => Ok(Arc::new(Broker::follow(config.clone()))),
    }
}

fn istiod(environment: &Environment) -> anyhow::Result<Arc<dyn Source>> {
    let Some(server) = environment.ca.clone() else {
        anyhow::bail!(
            "CA_ADDRESS is empty: set it to the server that signs SVIDs, such as \
             https://istiod.istio-system.svc:15012"
        );
    };
    let Environment { svid_lifetime, key_usage, .. } = *environment;
    let aliases = environment.trust_domain_aliases.clone();
    Ok(Arc::new(Istiod::new(IstiodConfig { server, svid_lifetime, aliases, key_usage })))
}

/// The same whose bundles have the operator's CRLs, if a file of such is named; and how that file
/// is. Needs a running runtime.
pub(super) fn with_crls(
    environment: &Environment,
    source: Arc<dyn Source>,
    tasks: &Tasks,
) -> (Arc<dyn Source>, Option<Receiver<CrlFileStatus>>) {
    let Some(path) = environment.crl.clone() else { return (source, None) };
    let source = WithCrls::follow(source, path, tasks);
    let status = source.status();
    (Arc::new(source), Some(status))
}

/// Where the mesh comes from.
///
/// # Errors
/// If the environment names nothing.
pub(super) fn mesh(environment: &Environment) -> anyhow::Result<XdsConfig> {
    let Some(server) = environment.xds.clone() else {
        anyhow::bail!(
            "XDS_ADDRESS is empty: set it to the control plane, such as \
             https://istiod.istio-system.svc:15012"
        );
    };
    let on_demand = environment.xds_on_demand;
    Ok(XdsConfig { server, node: environment.node.clone(), on_demand })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::settings, config::environment::Surroundings};

    /// What is shown is what is used, whatever was asked for.
    #[test]
    fn the_dump_shows_the_windows_and_the_probes_that_are_used() {
        let asked = [
            ("HTTP2_CONNECTION_WINDOW_SIZE", "1000000"),
            ("HTTP2_STREAM_WINDOW_SIZE", "1000"),
            ("HTTP2_FRAME_SIZE", "20000"),
            ("KEEPALIVE_ENABLED", "false"),
            ("KEEPALIVE_TIME", "7s"),
            ("KEEPALIVE_RETRIES", "700"),
            ("USER_TIMEOUT_ENABLED", "true"),
        ];
        let asked = asked.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let around = Surroundings { cores: 1, exists: &|_| true, read: &|_| Ok(None) };
        let environment = Environment::read(asked, &[], &around).unwrap();
        let (shown, config) = (settings(&environment), tunnels(&environment));
        let (used, probes) = (config.limits, config.keepalive);
        assert_eq!((used.connection_window, used.max_frame), (1_000_000, 20_000));
        assert_eq!(used.stream_window_most, 256 << 10, "so much a stream may hold in any case");
        assert_eq!((probes.enabled, probes.time.as_secs(), probes.retries), (false, 7, 127));
        for (key, used) in [
            ("windowSize", used.stream_window),
            ("windowSizeMost", used.stream_window_most),
            ("connectionWindowSize", used.connection_window),
            ("frameSize", used.max_frame),
        ] {
            assert_eq!(shown[key], used, "{key}");
        }
        let sockets = &shown["socketConfig"];
        assert_eq!(sockets["keepaliveTime"]["secs"], probes.time.as_secs());
        assert_eq!(sockets["keepaliveInterval"]["secs"], probes.interval.as_secs());
        assert_eq!(sockets["keepaliveRetries"], probes.retries);
        assert_eq!(sockets["keepaliveEnabled"], probes.enabled);
        assert_eq!(sockets["userTimeoutEnabled"], false);
    }
}
