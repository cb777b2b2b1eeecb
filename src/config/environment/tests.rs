mod names;

use std::path::Path;

use serde_json::json;

use super::*;
use crate::{
    credentials::{AuthToken, Roots},
    identity::KeyUsageRule,
};

/// Reads these variables on a machine with eight cores and these files.
fn read_with(
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<Environment, EnvironmentFaults> {
    let text = |path: &Path| {
        files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
    };
    let around = Surroundings {
        cores: 8,
        exists: &|path| text(path).is_some(),
        read: &|path| Ok(text(path)),
    };
    let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Environment::read(variables, &["proxy".into(), "ztunnel".into()], &around)
}

fn read(variables: &[(&str, &str)]) -> Environment {
    read_with(variables, &[(ROOTS, ""), (TOKEN, "")]).unwrap()
}

fn faults(variables: &[(&str, &str)]) -> String {
    read_with(variables, &[(ROOTS, "")]).unwrap_err().to_string()
}

const ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";

/// As Istio's chart sets it.
const CHART: &[(&str, &str)] = &[
    ("CA_ADDRESS", "istiod.istio-system.svc:15012"),
    ("XDS_ADDRESS", "istiod.istio-system.svc:15012"),
    ("RUST_LOG", "info"),
    ("RUST_BACKTRACE", "1"),
    ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
    ("INPOD_ENABLED", "true"),
    ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
    ("POD_NAME", "ztunnel-n1"),
    ("POD_NAMESPACE", "istio-system"),
    ("NODE_NAME", "n1"),
    ("INSTANCE_IP", "10.244.1.2"),
    ("SERVICE_ACCOUNT", "ztunnel"),
    ("ISTIO_META_ENABLE_HBONE", "true"),
    ("ZTUNNEL_CPU_LIMIT", "4"),
    ("ISTIO_META_ISTIO_VERSION", "1.31.0"),
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("ISTIO_INGRESSGATEWAY_SERVICE_HOST", "10.96.0.9"),
    ("ISTIO_INGRESSGATEWAY_SERVICE_PORT_HTTP2", "80"),
    ("ISTIO_INGRESSGATEWAY_PORT_80_TCP_ADDR", "10.96.0.9"),
];

#[test]
fn the_chart_of_istio_is_read_without_a_warning() {
    let read = read(CHART);
    assert_eq!(read.warnings, Vec::<String>::new());
    let xds = read.xds.unwrap();
    assert_eq!(xds.address, "https://istiod.istio-system.svc:15012");
    assert_eq!((&*xds.server.host, xds.server.port), ("istiod.istio-system.svc", 15012));
    assert_eq!(xds.roots, Roots::File(ROOTS.into()));
    assert_eq!(xds.token, Some(AuthToken::File(TOKEN.into())));
    assert_eq!(read.ca, Some(xds), "one server for both");
    assert_eq!((read.drain.as_secs(), read.workers), (25, 2));
    assert_eq!((read.dns_proxy, read.dns_address), (true, None));
    assert_eq!((&*read.arguments, read.packet_mark), ("proxy ztunnel", 1337));
    assert_eq!(read.istio_version.as_deref(), Some("1.31.0"));
    let own = read.own.unwrap();
    let id = own.id(&read.trust_domain).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
}

#[test]
fn the_node_is_as_a_real_one_tells_istiod() {
    let node = read(&CHART[..12]).node;
    let id = "ztunnel~10.244.1.2~ztunnel-n1.istio-system~istio-system.svc.cluster.local";
    assert_eq!(node.id, id);
    let expected = json!({
        "CLUSTER_ID": "Kubernetes",
        "INSTANCE_IPS": "10.244.1.2",
        "NAME": "ztunnel-n1",
        "NAMESPACE": "istio-system",
        "NODE_NAME": "n1",
    });
    assert_eq!(json!(node.metadata), expected);
    let json_too = read(&[("ISTIO_METAJSON_LABELS", r#"{"app":"x"}"#)]).node;
    assert_eq!(json_too.metadata["LABELS"], json!({ "app": "x" }));
    assert_eq!(json_too.id, "ztunnel~1.1.1.1~.~.svc.cluster.local");
}

#[test]
fn an_environment_without_anything_has_the_defaults() {
    let read = read_with(&[], &[(ROOTS, "")]).unwrap();
    assert_eq!(read.xds.unwrap().address, "https://localhost:15012");
    assert_eq!((read.ca.unwrap().token, read.own), (None, None));
    assert_eq!((&*read.cluster_id, &*read.cluster_domain), ("Kubernetes", "cluster.local"));
    assert_eq!((read.drain.as_secs(), read.svid_lifetime.as_secs()), (5, 86_400));
    assert_eq!((read.admin_port, read.stats_port, read.readiness_port), (15000, 15020, 15021));
    assert_eq!(read.tunnels.connection_window, 16_777_216);
    assert_eq!(read.zds_socket, Path::new("/var/run/ztunnel/ztunnel.sock"));
}

#[test]
fn a_wrong_value_is_named_with_what_would_be_right() {
    for (name, value, says) in [
        ("ENABLE_PROXY", "yes", "ENABLE_PROXY: \"yes\": expected true or false"),
        ("IPV6_ENABLED", "", "expected true or false"),
        ("PROXY_MODE", "sidecar", "expected shared"),
        ("PROXY_MODE", "dedicated", "expected shared"),
        ("FAKE_CA", "true", "expected false"),
        ("COMPLIANCE_POLICY", "fips", "expected pqc, or no value"),
        ("SECRET_TTL", "soon", "expected a duration, such as 10s"),
        ("SECRET_TTL", "1s", "at least 10s"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "99999999h", "at most ten years"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "0", "1 to 65535"),
        ("HTTP2_FRAME_SIZE", "1", "16384 to 16777215 bytes"),
        ("HTTP2_STREAM_WINDOW_SIZE", "0", "1 to 2147483647 bytes"),
        ("KEEPALIVE_RETRIES", "-1", "expected a number"),
        ("KEEPALIVE_TIME", "soon", "expected a duration"),
        ("USER_TIMEOUT_ENABLED", "yes", "expected true or false"),
        ("PACKET_MARK", "-1", "expected 1337"),
        ("PACKET_MARK", "7", "the mark that the capture rules in pods use"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30s", "whole seconds"),
        ("ZTUNNEL_WORKER_THREADS", "0%", "1% to 100%"),
        ("ZTUNNEL_RESOURCE_CPU_LIMIT", "0", "above 0"),
        ("ZTUNNEL_RESOURCE_CPU_LIMIT", "-1", "above 0"),
        ("XDS_ADDRESS", "", "XDS_ADDRESS: \"\": expected https://HOST:PORT"),
        ("CA_ADDRESS", "", "or choose another source with ADIT_SVID_SOURCE"),
        ("XDS_ADDRESS", "http://istiod:15010", "https://HOST:PORT"),
        ("CA_ADDRESS", "https://istiod/path", "https://HOST:PORT"),
        ("XDS_ADDRESS", "istiod:70000", "it has the port \"70000\": must be 1 to 65535"),
        ("XDS_ADDRESS", "https://[fd00::1]:0", "it has the port \"0\": must be 1 to 65535"),
        ("RUST_LOG", "inof", "\"inof\" is not a valid level"),
        ("ALT_CA_HOSTNAME", "a b", "a host name that can be in a certificate"),
        ("TRUST_DOMAIN", "A B", "a trust domain"),
        ("INSTANCE_IP", "node1", "an IP address"),
        ("ISTIO_METAJSON_X", "{", "ISTIO_METAJSON_X: \"{\": expected JSON"),
        ("ISTIO_META_DNS_PROXY_ADDR", "here", "an address, such as"),
        ("PROXY_CONFIG", "{ statsPort: no }", "PROXY_CONFIG:1:14: statsPort"),
        ("XDS_ON_DEMAND", "true", "or set ISTIO_META_DNS_CAPTURE=false"),
    ] {
        let faults = faults(&[(name, value)]);
        assert!(faults.contains(says), "{name}={value}: {faults}");
        assert!(faults.ends_with("1 error in the environment"), "{faults}");
    }
    let both = faults(&[("LOCAL_XDS", "secret"), ("LOCAL_XDS_PATH", "/x"), ("PACKET_MARK", "x")]);
    assert!(
        both.contains("only one of") && both.ends_with("2 errors in the environment"),
        "{both}"
    );
}

#[test]
fn what_may_be_a_secret_is_not_printed() {
    let told = faults(&[("XDS_HEADER_A B", "hunter2"), ("CA_HEADER_X-KEY", "hunter2\u{1}")]);
    assert!(told.contains("XDS_HEADER_A B") && told.contains("CA_HEADER_X-KEY"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let read = read(&[("AUTH_TOKEN", "hunter2"), ("XDS_HEADER_X-KEY", "hunter2")]);
    assert_eq!(read.xds.as_ref().unwrap().headers[0].1, "hunter2");
    assert!(!format!("{read:?}").contains("hunter2"), "{read:?}");
}

#[test]
fn connections_have_what_is_left_of_the_grace_period() {
    for (grace, asked, drain) in [
        (Some("30"), None, 25),
        (Some("11"), None, 6),
        (Some("10"), None, 9),
        (Some("2"), None, 1),
        (Some("1"), None, 1),
        (Some("0"), None, 1),
        (None, None, 5),
        (Some("30"), Some("2m"), 120),
        (None, Some("7"), 7),
    ] {
        let grace = grace.map(|grace| ("TERMINATION_GRACE_PERIOD_SECONDS", grace));
        let asked = asked.map(|asked| ("CONNECTION_TERMINATION_DEADLINE", asked));
        let variables: Vec<_> = grace.into_iter().chain(asked).collect();
        assert_eq!(read(&variables).drain.as_secs(), drain, "{variables:?}");
    }
}

#[test]
fn workers_are_those_asked_for_or_a_share_of_what_there_is() {
    for (variables, workers) in [
        (&[][..], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "64")], 16),
        (&[("ZTUNNEL_WORKER_THREADS", "3")], 3),
        (&[("ZTUNNEL_WORKER_THREADS", "0")], 8),
        (&[("ZTUNNEL_WORKER_THREADS", "30%")], 3),
        (&[("ZTUNNEL_WORKER_THREADS", "100%"), ("ZTUNNEL_CPU_LIMIT", "6")], 6),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "500m")], 1),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "1.5"), ("ZTUNNEL_RESOURCE_CPU_REQUEST", "3")], 3),
        (&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "2500m")], 3),
        (&[("PROXY_CONFIG", "concurrency: 5"), ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1")], 5),
        (&[("PROXY_CONFIG", "concurrency: 5"), ("ZTUNNEL_WORKER_THREADS", "4")], 4),
    ] {
        assert_eq!(read(variables).workers, workers, "{variables:?}");
    }
}

#[test]
fn the_config_of_the_mesh_counts_and_variables_win() {
    let mesh = "
        rootNamespace: istio-system
        defaultConfig:
          discoveryAddress: istiod-one.istio-system.svc:15012
          proxyAdminPort: 16000
          drainDuration: 45s
          proxyMetadata: { ISTIO_META_DNS_CAPTURE: 'false', A: one, B: one, C: one }";
    let files = [("./etc/istio/config/mesh", mesh), (ROOTS, "")];
    let config = "{ statsPort: 16020, proxyMetadata: { B: two, C: two } }";
    let variables = [("PROXY_CONFIG", config), ("ISTIO_META_C", "three")];
    let both = read_with(&variables, &files).unwrap();
    assert_eq!((both.admin_port, both.stats_port, both.dns_proxy), (16000, 16020, false));
    assert_eq!(both.xds.unwrap().server.host, "istiod-one.istio-system.svc");
    let metadata = both.proxy_metadata;
    assert_eq!([&*metadata["A"], &*metadata["B"], &*metadata["C"]], ["one", "two", "three"]);
    let other = read_with(&[("CA_ADDRESS", "ca:1")], &files).unwrap();
    let hosts = [other.xds, other.ca].map(|plane| plane.unwrap().server.host);
    assert_eq!(hosts, ["istiod-one.istio-system.svc", "ca"]);
}

#[test]
fn roots_and_tokens_are_files_or_texts() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let of = |value: &str| read(&[("CA_ROOT_CA", value)]).ca.unwrap().roots;
    assert_eq!(of("SYSTEM"), Roots::System);
    assert_eq!(of(pem), Roots::Pem(pem.into()));
    assert_eq!(of("/later.pem"), Roots::File("/later.pem".into()));
    let text = AuthToken::Text(zeroize::Zeroizing::new("abc".to_owned()));
    assert_eq!(read(&[("AUTH_TOKEN", "abc")]).ca.unwrap().token, Some(text));
    assert_eq!(read(&[("AUTH_TOKEN", "/t")]).ca.unwrap().token, Some(AuthToken::File("/t".into())));
}

#[test]
fn cilium_needs_no_pod_and_no_token() {
    let environment = read_with(
        &[
            ("XDS_ADDRESS", "https://127.0.0.1:15012"),
            ("CA_ADDRESS", "https://127.0.0.1:15012"),
            ("XDS_ROOT_CA", "/etc/ztunnel/bootstrap-root.crt"),
            ("CA_ROOT_CA", "/etc/ztunnel/bootstrap-root.crt"),
            ("ISTIO_META_DNS_CAPTURE", "false"),
            ("INPOD_UDS", "/var/run/cilium/ztunnel.sock"),
            ("NODE_NAME", "172.18.0.2"),
            ("INSTANCE_IP", "172.18.0.2"),
        ],
        &[("/etc/ztunnel/bootstrap-root.crt", "")],
    );
    let environment = environment.unwrap();
    assert_eq!((environment.ca.unwrap().token, environment.own), (None, None));
    assert_eq!(environment.key_usage, KeyUsageRule::Optional);
    let [told] = &environment.warnings[..] else { panic!("{:?}", environment.warnings) };
    assert!(told.contains("without key usage are accepted") && told.contains("Cilium"), "{told}");
    assert!(!environment.dns_proxy);
}

/// Cilium's agent needs it where it is the CA; nobody else has it without asking.
#[test]
fn key_usage_may_be_missing_where_cilium_signs_or_somebody_says_so() {
    let cilium = ("INPOD_UDS", "/var/run/cilium/ztunnel.sock");
    let (local, far) = (("CA_ADDRESS", "localhost:15012"), ("CA_ADDRESS", "spire.test:15012"));
    let said = |value| ("ADIT_LEAF_KEY_USAGE", value);
    for (variables, expected) in [
        (vec![], KeyUsageRule::Required),
        (vec![local], KeyUsageRule::Required),
        (vec![cilium, far], KeyUsageRule::Required),
        (vec![("INPOD_UDS", "/var/run/cilium-other/z.sock"), local], KeyUsageRule::Required),
        (vec![cilium, local], KeyUsageRule::Optional),
        (vec![cilium, local, said("")], KeyUsageRule::Optional),
        (vec![cilium, local, said("required")], KeyUsageRule::Required),
        (vec![said("optional")], KeyUsageRule::Optional),
    ] {
        let read = read(&variables);
        assert_eq!(read.key_usage, expected, "{variables:?}");
        let told = read.warnings.iter().any(|warning| warning.contains("key usage"));
        assert_eq!(told, expected == KeyUsageRule::Optional, "{variables:?}");
    }
    let fault = faults(&[said("optionally")]);
    assert!(fault.contains("ADIT_LEAF_KEY_USAGE") && fault.contains("required or optional"));
}

#[test]
fn who_is_not_in_the_mesh_may_be_called_unless_the_operator_says_otherwise() {
    let policy =
        |value: &str| read(&[("ADIT_OUTBOUND_TRAFFIC_POLICY", value)]).outbound_traffic_policy;
    assert_eq!(read(&[]).outbound_traffic_policy, OutboundTrafficPolicy::AllowAny);
    assert_eq!(policy("ALLOW_ANY"), OutboundTrafficPolicy::AllowAny);
    assert_eq!(policy("REGISTRY_ONLY"), OutboundTrafficPolicy::RegistryOnly);
    let wrong = faults(&[("ADIT_OUTBOUND_TRAFFIC_POLICY", "registry")]);
    assert!(wrong.contains("ALLOW_ANY or REGISTRY_ONLY"), "{wrong}");
    let misspelt = read(&[("ADIT_OUTBOUND_TRAFIC_POLICY", "REGISTRY_ONLY")]).warnings;
    assert!(misspelt[0].contains("did you mean ADIT_OUTBOUND_TRAFFIC_POLICY?"), "{misspelt:?}");
}

#[test]
fn what_is_not_tcp_passes_unless_the_operator_says_otherwise() {
    let verdict = |value: &str| read(&[("ADIT_NON_TCP", value)]).non_tcp;
    assert_eq!(read(&[]).non_tcp, NonTcp::Pass);
    assert_eq!(["pass", "count", "drop"].map(verdict), [NonTcp::Pass, NonTcp::Count, NonTcp::Drop]);
    let wrong = faults(&[("ADIT_NON_TCP", "deny")]);
    assert!(wrong.contains("ADIT_NON_TCP") && wrong.contains("pass, count or drop"), "{wrong}");
}

#[test]
fn tunnels_go_to_applications_ports_only_where_the_operator_says_so() {
    use crate::proxy::original_port::OriginalPortHbone as Setting;
    let setting = |value| read(&[("ADIT_ORIGINAL_PORT_HBONE", value)]).tunnels.original_port;
    assert_eq!(read(&[]).tunnels.original_port, Setting::Off);
    for (value, is) in [("off", (false, false)), ("accept", (true, false)), ("send", (true, true))]
    {
        let setting = setting(value);
        assert_eq!((setting.accepts(), setting.sends()), is, "{value}");
    }
    for wrong in ["", "on", "Send"] {
        let faults = faults(&[("ADIT_ORIGINAL_PORT_HBONE", wrong)]);
        assert!(faults.contains("off, accept or send"), "{wrong}: {faults}");
    }
}

#[test]
fn svids_may_come_from_a_spiffe_provider_that_is_named_whole() {
    assert_eq!(read(&[]).svid_source, SvidSource::Istiod);
    let api = ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock");
    let source = |kind| ("ADIT_SVID_SOURCE", kind);
    let read_from = read(&[source("workloadApi"), api]).svid_source;
    assert_eq!(read_from.as_str(), "workloadApi");
    let broker = [
        source("broker"),
        api,
        ("SPIFFE_BROKER_SOCKET", "unix:///run/spire/broker.sock"),
        ("ADIT_BROKER_PROVIDER_ID", "spiffe://td/spire/agent"),
    ];
    let SvidSource::Broker(config) = read(&broker).svid_source else { panic!("not a broker") };
    assert_eq!(config.provider_id.as_str(), "spiffe://td/spire/agent");
    // What names a provider that is not asked says so.
    for (variables, unused) in [
        (&broker[1..], &["ADIT_BROKER_PROVIDER_ID", "SPIFFE_BROKER_SOCKET"][..]),
        (&[api], &["SPIFFE_ENDPOINT_SOCKET"]),
        (&[source(""), api], &["SPIFFE_ENDPOINT_SOCKET"]),
        (&[(api.0, "")], &[]),
        (&[source("istiod"), api], &[]),
        (&[source("workloadApi"), api, broker[2]], &["SPIFFE_BROKER_SOCKET"]),
        (&[source("workloadApi"), api, ("CA_ADDRESS", "")], &[]),
        (&broker, &[]),
    ] {
        let warnings = read(variables).warnings;
        assert!(warnings.iter().all(|w| w.contains("is ignored")), "{warnings:?}");
        for name in unused {
            let told = format!("{name} is ignored");
            assert!(warnings.iter().any(|w| w.starts_with(&told)), "{name}: {warnings:?}");
        }
        assert_eq!(warnings.is_empty(), unused.is_empty(), "{variables:?}: {warnings:?}");
    }
    for (variables, named) in [
        (vec![source("spire")], "ADIT_SVID_SOURCE"),
        (vec![source("workloadApi")], "SPIFFE_ENDPOINT_SOCKET"),
        (vec![source("workloadApi"), (api.0, "http://a")], "SPIFFE_ENDPOINT_SOCKET"),
        (broker[..2].to_vec(), "SPIFFE_BROKER_SOCKET"),
        (broker[..3].to_vec(), "ADIT_BROKER_PROVIDER_ID"),
        ([&broker[..3], &[(broker[3].0, "spiffe://td")]].concat(), "ADIT_BROKER_PROVIDER_ID"),
    ] {
        let faults = faults(&variables);
        assert!(faults.contains(named), "{variables:?}: {faults}");
    }
}

#[test]
fn aliases_of_the_trust_domain_are_listed_for_the_ca_of_istiod_alone() {
    let alias = |text| ("ADIT_TRUST_DOMAIN_ALIASES", text);
    let listed = |text| -> Vec<String> {
        let aliases = read(&[alias(text)]).trust_domain_aliases;
        aliases.iter().map(ToString::to_string).collect()
    };
    assert_eq!(listed(""), Vec::<String>::new());
    assert_eq!(listed("old.test, older.test,old.test,"), ["old.test", "older.test"]);
    let api = ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock");
    let many = vec!["a"; 33].join(",");
    for wrong in [
        vec![alias("spiffe://old.test")],
        vec![alias("Old")],
        vec![alias("*")],
        vec![alias("old.test older.test")],
        vec![alias("good,old.test/ns/a")],
        vec![alias(&many)],
        vec![alias("old.test"), ("ADIT_SVID_SOURCE", "workloadApi"), api],
    ] {
        assert!(faults(&wrong).contains("ADIT_TRUST_DOMAIN_ALIASES: "), "{wrong:?}");
    }
}
