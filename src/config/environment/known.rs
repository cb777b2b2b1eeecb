//! Which names are known, and which of those are not honoured.

use super::variables::Variables;

/// Whose unknown names are probably misspelt: nobody else has names like these.
const FAMILIES: &[&str] =
    &["ADIT_", "ZTUNNEL_", "ISTIO_", "XDS_", "CA_", "INPOD_", "HTTP2_", "POOL_"];

/// The names of these families that are read, or are known to say nothing.
const KNOWN: &[&str] = &[
    "ADIT_BROKER_PROVIDER_ID",
    // Those of other commands, and of units of systemd.
    "ADIT_CA_CONFIG",
    "ADIT_CONFIG",
    "ADIT_FLAGS",
    "ADIT_LEAF_KEY_USAGE",
    "ADIT_ORIGINAL_PORT_HBONE",
    "ADIT_OUTBOUND_TRAFFIC_POLICY",
    "ADIT_SVID_SOURCE",
    "CA_ADDRESS",
    "CA_ROOT_CA",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    // Set by Istio's chart, and read by nobody.
    "INPOD_ENABLED",
    "INPOD_PORT_REUSE",
    "INPOD_UDS",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "XDS_ADDRESS",
    "XDS_ON_DEMAND",
    "XDS_ROOT_CA",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
    "ZTUNNEL_WORKER_THREADS",
];

/// Beginnings after which any name may follow.
const OPEN: &[&str] = &["ISTIO_META_", "ISTIO_METAJSON_", "XDS_HEADER_", "CA_HEADER_"];

/// Variables whose value, if it is this one (or, where none is said, any that is not empty), is not
/// honoured: what happens instead.
const NOT_HONOURED: &[(&str, Option<&str>, &str)] = &[
    ("LOCAL_XDS", None, "is not read: the mesh comes from XDS_ADDRESS alone"),
    ("LOCAL_XDS_PATH", None, "is not read: the mesh comes from XDS_ADDRESS alone"),
    ("UNSTABLE_ENABLE_SOCKS5", Some("true"), "there is no SOCKS5 listener"),
    ("HTTP2_STREAM_WINDOW_SIZE", None, OWN_WINDOWS),
    ("HTTP2_FRAME_SIZE", None, OWN_WINDOWS),
    ("KEEPALIVE_ENABLED", Some("false"), OWN_PROBES),
    ("KEEPALIVE_TIME", None, OWN_PROBES),
    ("KEEPALIVE_INTERVAL", None, OWN_PROBES),
    ("KEEPALIVE_RETRIES", None, OWN_PROBES),
    ("USER_TIMEOUT_ENABLED", Some("true"), OWN_PROBES),
    (
        "ENABLE_ORIG_SRC",
        None,
        "says nothing here: applications see the caller's address wherever the kernel can",
    ),
    ("IPV6_ENABLED", Some("false"), "pods are listened to on IPv6 too, if they have it"),
    ("AUTHZ_POLICY_INFO_LOGGING", Some("true"), "the access log says which policy decided"),
    (
        "INPOD_PORT_REUSE",
        Some("false"),
        "ports in pods are shared with another proxy's all the same",
    ),
    ("ENABLE_RESPONSE_BAGGAGE", Some("false"), "an accepted CONNECT says who accepted it"),
    (
        "TLS12_ENABLED",
        Some("true"),
        "TLS 1.2 is not spoken between proxies: TLS 1.3 is, and nothing older is accepted",
    ),
];

const OWN_WINDOWS: &str = "is not used: windows follow what applications take";
const OWN_PROBES: &str = "is not used: TCP probes come after 60 s, every 60 s, 5 times";

/// Variables whose value would make the mesh less safe than it says: what is expected instead.
const REFUSED: &[(&str, Option<&str>, &str)] = &[
    ("FAKE_CA", Some("true"), "false: certificates that prove nothing are not made"),
    (
        "PROXY_MODE",
        Some("dedicated"),
        "shared: this process serves the pods of a node, not one workload",
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
    for name in ["FAKE_CA", "UNSTABLE_ENABLE_SOCKS5", "TLS12_ENABLED"] {
        vars.flag_if_set(name);
    }
    if vars.text("PROXY_MODE").is_some_and(|mode| !matches!(mode, "shared" | "dedicated")) {
        vars.fault("PROXY_MODE", "shared");
    }
    if says("LOCAL_XDS", &None) && says("LOCAL_XDS_PATH", &None) {
        vars.fault_of_secret("LOCAL_XDS", "not both LOCAL_XDS and LOCAL_XDS_PATH");
    }
    warn_of_unknown(vars);
}

fn warn_of_unknown(vars: &Variables) {
    let links = vars.service_links();
    let of_service = |name: &str| {
        let after = |link: &&str| name.strip_prefix(*link);
        let rest = links.iter().filter_map(after);
        rest.into_iter().any(|rest| rest.starts_with("_SERVICE_") || rest.starts_with("_PORT"))
    };
    for (name, _) in vars.iter() {
        let of_family = FAMILIES.iter().any(|family| name.starts_with(family));
        let open = OPEN.iter().any(|beginning| name.starts_with(beginning));
        if !of_family || open || KNOWN.contains(&name) || of_service(name) {
            continue;
        }
        let near = KNOWN.iter().map(|known| (strsim::damerau_levenshtein(name, known), *known));
        let near = near.min().filter(|(distance, _)| *distance <= 3);
        let meant = near.map_or(String::new(), |(_, near)| format!("; did you mean {near}?"));
        let shown: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        vars.warn(format!("{shown} is not a variable that adit knows{meant}"));
    }
}
