//! The environment of the ambient node (ambient contract §3): variables, arguments and the
//! `ProxyConfig` of the mesh, as a value. Nothing here looks at the process: what a machine knows
//! comes as [`Surroundings`].
//!
//! Not here: who uses a setting ([`crate::app`]); what is not honoured is named in the warnings.

mod control_plane;
mod fault;
mod known;
mod leaves;
mod node;
mod proxy_config;
mod surroundings;
mod svid_source;
#[cfg(test)]
mod tests;
mod tunnels;
mod variables;
mod workers;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

pub use fault::{EnvironmentFault, EnvironmentFaults};
pub use node::OwnWorkload;
pub use surroundings::Surroundings;
pub use svid_source::SvidSource;
pub use tunnels::TunnelSettings;

use self::{proxy_config::ProxyConfig, variables::Variables};
use super::LoadError;
use crate::{
    credentials::ControlPlane,
    identity::{KeyUsageRule, TrustDomain, TrustDomainAliases},
    mesh::{NonTcp, source::xds::NodeIdentity},
    observe::logging::{LogFormat, QUIET, check_filter},
    proxy::egress::OutboundTrafficPolicy,
    sys::sockets::MARK,
};

/// All that the environment says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Environment {
    /// The arguments of the process, joined: `proxy ztunnel`.
    pub arguments: String,
    /// Whether pods are proxied; else only the endpoints are served.
    pub proxy: bool,
    /// The network in which this node stands; empty for the only one.
    pub network: String,
    /// The node's name.
    pub node_name: Option<String>,
    /// Which cluster this is.
    pub cluster_id: String,
    /// The suffix of the names of services.
    pub cluster_domain: String,
    /// The trust domain of this process's own identity; that of pods comes from the mesh.
    pub trust_domain: TrustDomain,
    /// Other names of the trust domain of pods: who is of those counts as of that.
    pub trust_domain_aliases: TrustDomainAliases,
    /// The pod that this process runs in.
    pub own: Option<OwnWorkload>,
    /// The address of that pod.
    pub instance_ip: IpAddr,
    /// What istiod is told of this node.
    pub node: NodeIdentity,
    /// Where the mesh comes from.
    pub xds: Option<ControlPlane>,
    /// The CA of the control plane.
    pub ca: Option<ControlPlane>,
    /// Whether pods may call who is not in the mesh.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// What happens to pods' non-TCP traffic: pass, count or drop (`ADIT_NON_TCP`).
    pub non_tcp: NonTcp,
    /// Where SVIDs come from.
    pub svid_source: SvidSource,
    /// Whether workloads are asked for by one and one, not all told.
    pub xds_on_demand: bool,
    /// What lifetime SVIDs are asked for.
    pub svid_lifetime: Duration,
    /// What the leaves of peers must say of their key's usage.
    pub key_usage: KeyUsageRule,
    /// Whether handshakes agree on keys only that a quantum computer does not find out.
    pub post_quantum: bool,
    /// The file with CRLs.
    pub crl: Option<PathBuf>,
    /// The socket of the node's CNI agent.
    pub zds_socket: PathBuf,
    /// Whether listeners in pods stand beside those of another process of the same user.
    pub reuse_port: bool,
    /// The mark of sockets that capture rules leave alone.
    pub packet_mark: u32,
    /// Whether applications see the caller's address; where nothing is said, if the kernel can.
    pub original_source: Option<bool>,
    /// Whether pods may ask for connections by SOCKS5.
    pub socks5: bool,
    /// Whether an application tunnel leads to the pod's loopback address.
    pub localhost_app_tunnel: bool,
    /// Whether an accepted CONNECT is answered with who accepted it.
    pub response_baggage: bool,
    /// Whether IPv6 is listened on.
    pub ipv6: bool,
    /// Tunnels and their sockets.
    pub tunnels: TunnelSettings,
    /// How long open connections have after SIGTERM.
    pub drain: Duration,
    /// Data workers.
    pub workers: usize,
    /// Where a name means a service of several namespaces, this one's comes first.
    pub preferred_service_namespace: Option<String>,
    /// The admin endpoint's port, on loopback.
    pub admin_port: u16,
    /// The metrics endpoint's port.
    pub stats_port: u16,
    /// The readiness endpoint's port.
    pub readiness_port: u16,
    /// Whether names are answered for pods.
    pub dns_proxy: bool,
    /// Where, in each pod; none is port 15053 of both loopback addresses.
    pub dns_address: Option<SocketAddr>,
    /// Which lines are logged, in `RUST_LOG`'s language.
    pub log_filter: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether verdicts of policies are logged at info as soon as they are made.
    pub log_authorization: bool,
    /// The release of Istio that this process is deployed with.
    pub istio_version: Option<String>,
    /// What else is told of this node, by name.
    pub proxy_metadata: BTreeMap<String, String>,
    /// What is legal and does nothing, or not what its name promises: a sentence each.
    pub warnings: Vec<String>,
}

impl Environment {
    /// Reads variables and the arguments after the program's name.
    ///
    /// # Errors
    /// All that is wrong, each with its variable, its value and what would be right.
    pub fn read(
        variables: impl IntoIterator<Item = (String, String)>,
        arguments: &[String],
        around: &Surroundings<'_>,
    ) -> Result<Self, EnvironmentFaults> {
        let vars = Variables::new(variables);
        let config = ProxyConfig::read(&vars, around);
        known::look(&vars);
        let own = OwnWorkload::read(&vars);
        let instance_ip = instance_ip(&vars);
        let metadata = node::metadata(&vars, &config);
        let cluster_id = cluster_id(&vars);
        let (xds, ca) = control_plane::read(&vars, &config, around, &cluster_id);
        let (dns_proxy, dns_address) = dns(&vars, &metadata);
        let trust_domain = vars.parse("TRUST_DOMAIN", "a trust domain, such as cluster.local");
        let zds_socket = vars.text("INPOD_UDS").unwrap_or("/var/run/ztunnel/ztunnel.sock");
        let key_usage = leaves::key_usage(&vars, ca.as_ref(), Path::new(zds_socket));
        let environment = Self {
            arguments: arguments.join(" "),
            proxy: vars.flag("ENABLE_PROXY", true),
            network: vars.text("NETWORK").unwrap_or_default().into(),
            node_name: vars.owned("NODE_NAME"),
            cluster_id,
            cluster_domain: vars.text("CLUSTER_DOMAIN").unwrap_or("cluster.local").into(),
            trust_domain: trust_domain.unwrap_or_else(default_trust_domain),
            trust_domain_aliases: leaves::trust_domain_aliases(&vars),
            node: node::identity(&vars, instance_ip, &metadata),
            own,
            instance_ip,
            xds,
            ca,
            svid_source: SvidSource::read(&vars),
            xds_on_demand: vars.flag("XDS_ON_DEMAND", false),
            outbound_traffic_policy: vars
                .parse("ADIT_OUTBOUND_TRAFFIC_POLICY", "ALLOW_ANY or REGISTRY_ONLY")
                .unwrap_or_default(),
            non_tcp: vars.parse("ADIT_NON_TCP", "pass, count or drop").unwrap_or_default(),
            svid_lifetime: svid_lifetime(&vars),
            key_usage,
            post_quantum: post_quantum(&vars),
            crl: vars.text("CRL_PATH").filter(|path| !path.is_empty()).map(Into::into),
            zds_socket: zds_socket.into(),
            reuse_port: vars.flag("INPOD_PORT_REUSE", true),
            packet_mark: packet_mark(&vars),
            original_source: vars.flag_if_set("ENABLE_ORIG_SRC"),
            socks5: vars.flag("UNSTABLE_ENABLE_SOCKS5", false),
            localhost_app_tunnel: vars.flag("LOCALHOST_APP_TUNNEL", true),
            response_baggage: vars.flag("ENABLE_RESPONSE_BAGGAGE", true),
            ipv6: vars.flag("IPV6_ENABLED", true),
            tunnels: TunnelSettings::read(&vars),
            drain: drain(&vars),
            workers: workers::count(&vars, &config, around.cores),
            preferred_service_namespace: vars.owned("PREFERED_SERVICE_NAMESPACE"),
            admin_port: config.admin_port.unwrap_or(15000),
            stats_port: config.stats_port.unwrap_or(15020),
            readiness_port: 15021,
            dns_proxy,
            dns_address,
            log_filter: log_filter(&vars),
            log_format: log_format(&vars),
            log_authorization: log_authorization(&vars),
            istio_version: metadata.get("ISTIO_VERSION").cloned(),
            proxy_metadata: metadata,
            warnings: Vec::new(),
        };
        if environment.xds_on_demand && environment.dns_proxy {
            vars.fault(
                "XDS_ON_DEMAND",
                "false while adit answers DNS for pods, which needs the names of all services; or \
                 set ISTIO_META_DNS_CAPTURE=false",
            );
        }
        let warnings = vars.done()?;
        Ok(Self { warnings, ..environment })
    }
}

impl Environment {
    /// That of this process, with `arguments` after the program's name.
    ///
    /// # Errors
    /// As [`Environment::read`].
    pub fn of_process(arguments: &[String]) -> Result<Self, EnvironmentFaults> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let read = |path: &Path| match super::read_text(path) {
            Ok(text) => Ok(Some(text)),
            Err(LoadError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let around = Surroundings { cores, exists: &Path::exists, read: &read };
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self::read(variables, arguments, &around)
    }
}

/// ztunnel's other policies are of other builds of it.
fn post_quantum(vars: &Variables) -> bool {
    match vars.text("COMPLIANCE_POLICY").unwrap_or_default() {
        "" => false,
        "pqc" => true,
        _ => {
            vars.fault("COMPLIANCE_POLICY", "pqc, or no value: adit enforces no other policy");
            false
        }
    }
}

/// Kubernetes leaves it empty where it does not know it yet.
fn instance_ip(vars: &Variables) -> IpAddr {
    let known = vars.text("INSTANCE_IP").is_some_and(|ip| !ip.is_empty());
    let given = || vars.parse("INSTANCE_IP", "an IP address, such as 10.244.1.2");
    known.then(given).flatten().unwrap_or_else(|| [1, 1, 1, 1].into())
}

fn default_trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a literal trust domain parses")
}

/// That of all sockets of ours: the rules of istio-cni know no other.
fn packet_mark(vars: &Variables) -> u32 {
    let mark = vars.parse("PACKET_MARK", "1337").unwrap_or(MARK);
    if mark != MARK {
        vars.fault("PACKET_MARK", "1337, the mark that the capture rules in pods use");
    }
    MARK
}

/// Istio's own name is the first that counts.
fn cluster_id(vars: &Variables) -> String {
    let names = ["ISTIO_META_CLUSTER_ID", "CLUSTER_ID"];
    names.into_iter().find_map(|name| vars.owned(name)).unwrap_or_else(|| "Kubernetes".into())
}

fn log_filter(vars: &Variables) -> String {
    let asked = vars.text("RUST_LOG").filter(|filter| !filter.is_empty());
    if let Err(why) = check_filter(asked.unwrap_or_default()) {
        vars.fault("RUST_LOG", &format!("info, debug or such as info,xds=debug; {why}"));
    }
    format!("{QUIET},{}", asked.unwrap_or("info"))
}

/// As in ztunnel, whatever is not `json` is plain.
fn log_format(vars: &Variables) -> LogFormat {
    match vars.text("LOG_FORMAT").unwrap_or_default() {
        "json" => return LogFormat::IstioJson,
        "" | "plain" => {}
        _ => vars.warn_of_value("LOG_FORMAT", "must be plain or json; using plain"),
    }
    LogFormat::Istio
}

/// As in ztunnel, whatever is not `true` is false.
fn log_authorization(vars: &Variables) -> bool {
    let name = "AUTHZ_POLICY_INFO_LOGGING";
    match vars.text(name).unwrap_or_default() {
        "true" => return true,
        "" | "false" => {}
        _ => vars.warn_of_value(name, "must be true or false; using false"),
    }
    false
}

fn svid_lifetime(vars: &Variables) -> Duration {
    let (name, day, least) = ("SECRET_TTL", Duration::from_secs(86_400), Duration::from_secs(10));
    let lifetime = vars.duration(name).unwrap_or(day);
    if lifetime < least {
        vars.fault(name, "at least 10s");
    }
    lifetime
}

/// What is left of the time that Kubernetes gives, if nobody says how long it is to be.
fn drain(vars: &Variables) -> Duration {
    let asked = vars.duration("CONNECTION_TERMINATION_DEADLINE");
    let grace = vars.parse::<u64>("TERMINATION_GRACE_PERIOD_SECONDS", "whole seconds, such as 30");
    let left = match grace {
        Some(grace) if grace > 10 => grace - 5,
        Some(grace) => grace.saturating_sub(1).max(1),
        None => 5,
    };
    asked.unwrap_or(Duration::from_secs(left.min(variables::LONGEST.as_secs())))
}

/// Whether names are answered, and where: said by the node's metadata, as istiod has it.
fn dns(vars: &Variables, metadata: &BTreeMap<String, String>) -> (bool, Option<SocketAddr>) {
    let on = metadata.get("DNS_CAPTURE").is_none_or(|capture| capture.eq_ignore_ascii_case("true"));
    let Some(address) = metadata.get("DNS_PROXY_ADDR") else { return (on, None) };
    let loopback = address.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    match (address.parse(), loopback) {
        (Ok(address), _) => (on, Some(address)),
        (_, Some(15053)) => (on, None),
        (_, Some(port)) => (on, Some((std::net::Ipv4Addr::LOCALHOST, port).into())),
        (Err(_), None) => {
            vars.fault("ISTIO_META_DNS_PROXY_ADDR", "an address, such as 127.0.0.1:15053");
            (on, None)
        }
    }
}
