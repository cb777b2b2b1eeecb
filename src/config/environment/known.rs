//! Which names are known, and which of those are not honoured.

use super::variables::Variables;

/// Whose unknown names are probably misspelt: nobody else has names like these.
const FAMILIES: &[&str] = &[
    "ADIT_",
    "ALT_CA_",
    "ALT_XDS_",
    "AUTHZ_",
    "CA_",
    "COMPLIANCE_",
    "CRL_",
    "HTTP2_",
    "INPOD_",
    "ISTIO_",
    "KEEPALIVE_",
    "LOCALHOST_APP_",
    "LOCAL_XDS",
    "PACKET_",
    "POOL_",
    "SECRET_",
    "SPIFFE_",
    "TLS12_",
    "UNSTABLE_",
    "XDS_",
    "ZTUNNEL_",
];

/// The names that are read, or are known to say nothing.
const KNOWN: &[&str] = &[
    "ADIT_BROKER_PROVIDER_ID",
    // Those of other commands, and of units of systemd.
    "ADIT_CA_CONFIG",
    "ADIT_CONFIG",
    "ADIT_FLAGS",
    "ADIT_LEAF_KEY_USAGE",
    "ADIT_NON_TCP",
    "ADIT_ORIGINAL_PORT_HBONE",
    "ADIT_OUTBOUND_TRAFFIC_POLICY",
    "ADIT_SVID_SOURCE",
    "ADIT_TRUST_DOMAIN_ALIASES",
    "ALT_CA_HOSTNAME",
    "ALT_XDS_HOSTNAME",
    "AUTHZ_POLICY_INFO_LOGGING",
    "AUTH_TOKEN",
    "CA_ADDRESS",
    "CA_ROOT_CA",
    "CLUSTER_DOMAIN",
    "CLUSTER_ID",
    "COMPLIANCE_POLICY",
    "CONNECTION_TERMINATION_DEADLINE",
    "CRL_PATH",
    "ENABLE_ORIG_SRC",
    "ENABLE_PROXY",
    "ENABLE_RESPONSE_BAGGAGE",
    "FAKE_CA",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    // Set by Istio's chart, and read by nobody.
    "INPOD_ENABLED",
    "INPOD_PORT_REUSE",
    "INPOD_UDS",
    "INSTANCE_IP",
    "IPV6_ENABLED",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "KEEPALIVE_TIME",
    "LOCALHOST_APP_TUNNEL",
    "LOCAL_XDS",
    "LOCAL_XDS_PATH",
    "LOG_FORMAT",
    "NETWORK",
    "NODE_NAME",
    "PACKET_MARK",
    "POD_NAME",
    "POD_NAMESPACE",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "PREFERED_SERVICE_NAMESPACE",
    "PROXY_CONFIG",
    "PROXY_MODE",
    "PROXY_WORKLOAD_INFO",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SECRET_TTL",
    "SERVICE_ACCOUNT",
    "SPIFFE_BROKER_SOCKET",
    "SPIFFE_ENDPOINT_SOCKET",
    "TERMINATION_GRACE_PERIOD_SECONDS",
    "TLS12_ENABLED",
    "TRUST_DOMAIN",
    "UNSTABLE_ENABLE_SOCKS5",
    "USER_TIMEOUT_ENABLED",
    "XDS_ADDRESS",
    "XDS_ON_DEMAND",
    "XDS_ROOT_CA",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
    "ZTUNNEL_WORKER_THREADS",
];

/// Names that others set, each as near to one of ours as a misspelt one would be.
const OTHERS: &[&str] = &["CLUSTER_IP", "INSTANCE_ID"];

/// Beginnings after which any name may follow.
const OPEN: &[&str] = &["ISTIO_META_", "ISTIO_METAJSON_", "XDS_HEADER_", "CA_HEADER_"];

/// Variables whose value, if it is this one (or, where none is said, any that is not empty), is not
/// honoured: what happens instead.
const NOT_HONOURED: &[(&str, Option<&str>, &str)] = &[
    ("LOCAL_XDS", None, "is ignored: the mesh comes only from XDS_ADDRESS"),
    ("LOCAL_XDS_PATH", None, "is ignored: the mesh comes only from XDS_ADDRESS"),
    (
        "USER_TIMEOUT_ENABLED",
        Some("true"),
        "adit sets no TCP user timeout; the kernel's retransmission limit ends such connections",
    ),
    ("INPOD_PORT_REUSE", Some("false"), "ignored: adit always shares its ports in pods"),
    (
        "TLS12_ENABLED",
        Some("true"),
        "ignored: proxies speak TLS 1.3 with each other, never an older version",
    ),
];

/// Variables whose value would make the mesh less safe than it says: what is expected instead.
const REFUSED: &[(&str, Option<&str>, &str)] = &[
    ("FAKE_CA", Some("true"), "false: adit does not make fake certificates"),
    (
        "PROXY_MODE",
        Some("dedicated"),
        "shared: this process serves all pods of a node, not one workload",
    ),
];

/// Takes note of unknown names, and of known ones that are not honoured.
pub(super) fn look(vars: &Variables) {
    let says = |name: &str, value: &Option<&str>| match (vars.text(name), value) {
        (Some(is), Some(value)) => is == *value,
        (is, None) => is.is_some_and(|is| !is.is_empty()),
        (None, _) => false,
    };
    for (name, value, instead) in NOT_HONOURED {
        if says(name, value) {
            vars.warn(match value {
                Some(value) => format!("{name}={value}: {instead}"),
                None => format!("{name} {instead}"),
            });
        }
    }
    for (name, value, expected) in REFUSED {
        if says(name, value) {
            vars.fault(name, expected);
        }
    }
    for name in ["FAKE_CA", "TLS12_ENABLED"] {
        vars.flag_if_set(name);
    }
    if vars.text("PROXY_MODE").is_some_and(|mode| !matches!(mode, "shared" | "dedicated")) {
        vars.fault("PROXY_MODE", "shared");
    }
    if says("LOCAL_XDS", &None) && says("LOCAL_XDS_PATH", &None) {
        vars.fault_of_secret("LOCAL_XDS", "only one of LOCAL_XDS and LOCAL_XDS_PATH");
    }
    warn_of_unknown(vars);
}

/// Of a family of ours each name that is not known is told; of others only those that are as good as
/// one of ours, since a container has many more variables.
fn warn_of_unknown(vars: &Variables) {
    let links = vars.service_links();
    let of_service = |name: &str| {
        let after = |link: &&str| name.strip_prefix(*link);
        let rest = links.iter().filter_map(after);
        rest.into_iter().any(|rest| rest.starts_with("_SERVICE_") || rest.starts_with("_PORT"))
    };
    for (name, _) in vars.iter() {
        let open = OPEN.iter().any(|beginning| name.starts_with(beginning));
        if open || KNOWN.contains(&name) || OTHERS.contains(&name) {
            continue;
        }
        let of_family = FAMILIES.iter().any(|family| name.starts_with(family));
        let near = nearest(name, if of_family { 3 } else { misspelt_within(name) });
        if !of_family && near.is_none() || of_service(name) {
            continue;
        }
        let meant = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
        let shown: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        vars.warn(format!("adit does not know the variable {shown}{meant}"));
    }
}

/// In how many letters a name of nobody's family may differ from one of ours and still be meant for
/// it: short ones are alike by chance.
fn misspelt_within(name: &str) -> usize {
    match name.len() {
        0..8 => 0,
        8..12 => 1,
        _ => 2,
    }
}

/// The known name that differs least, in no more than so many letters.
fn nearest(name: &str, most: usize) -> Option<&'static str> {
    let as_long = KNOWN.iter().filter(|known| known.len().abs_diff(name.len()) <= most);
    let all = as_long.map(|known| (strsim::damerau_levenshtein(name, known), *known));
    all.min().filter(|(distance, _)| *distance <= most).map(|(_, near)| near)
}
