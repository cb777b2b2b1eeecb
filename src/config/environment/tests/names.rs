//! Names that are not known, or not honoured.

use super::*;

#[test]
fn what_is_known_and_not_honoured_is_warned_about() {
    let read = read(&[
        ("CABLE", "1"),
        ("CA_HEADER_X", "1"),
        ("ISTIO_META_ANYTHING", "1"),
        ("LOCAL_XDS", "{}"),
        ("TLS12_ENABLED", "true"),
        ("LOG_FORMAT", "yaml"),
        ("AUTHZ_POLICY_INFO_LOGGING", "yes"),
    ]);
    let says = [
        "LOCAL_XDS is ignored",
        "TLS12_ENABLED=true: ignored: proxies speak TLS 1.3",
        "LOG_FORMAT=\"yaml\": must be plain or json; using plain",
        "AUTHZ_POLICY_INFO_LOGGING=\"yes\": must be true or false; using false",
    ];
    assert_eq!(read.warnings.len(), says.len(), "{:?}", read.warnings);
    for (warning, says) in read.warnings.iter().zip(says) {
        assert!(warning.starts_with(says), "{warning}");
    }
    assert_eq!((read.log_format, read.log_authorization), (LogFormat::Istio, false));
}

#[test]
fn what_is_honoured_is_not_warned_about() {
    let said = [
        ("ENABLE_ORIG_SRC", "true"),
        ("IPV6_ENABLED", "false"),
        ("ENABLE_RESPONSE_BAGGAGE", "false"),
        ("AUTHZ_POLICY_INFO_LOGGING", "true"),
    ];
    let read = read(&said);
    assert_eq!(read.warnings, Vec::<String>::new());
    assert_eq!((read.original_source, read.ipv6), (Some(true), false));
    assert!(read.log_authorization && !read.response_baggage);
}

/// Of a family of ours any, of others those that are as good as one of ours.
#[test]
fn names_that_nobody_knows_are_warned_about() {
    for (name, meant) in [
        ("ZTUNNEL_WORKER_THREAD", Some("ZTUNNEL_WORKER_THREADS")),
        ("CRL_PTH", Some("CRL_PATH")),
        ("COMPLIANCE_POLCY", Some("COMPLIANCE_POLICY")),
        ("SECRET_TLL", Some("SECRET_TTL")),
        ("SPIFFE_ENDPOINT_SOCKT", Some("SPIFFE_ENDPOINT_SOCKET")),
        ("KEEPALIVE_TIMES", Some("KEEPALIVE_TIME")),
        ("INPOD_MARK", None),
        ("CRL_FILE_OF_ANOTHER", None),
        ("PREFERRED_SERVICE_NAMESPACE", Some("PREFERED_SERVICE_NAMESPACE")),
        ("LOG_FROMAT", Some("LOG_FORMAT")),
        ("TRUST_DOMIAN", Some("TRUST_DOMAIN")),
        ("ENABLE_PROXI", Some("ENABLE_PROXY")),
        ("CONNECTION_TERMINATION_DEADLIN", Some("CONNECTION_TERMINATION_DEADLINE")),
    ] {
        let warnings = read(&[(name, "1")]).warnings;
        let meant = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
        assert_eq!(warnings, [format!("adit does not know the variable {name}{meant}")]);
    }
}

#[test]
fn variables_of_others_are_nobodys_misspelt_ones() {
    let others = "AWS_REGION CLUSTER_IP CLUSTER_NAME DD_ENV ENABLE_METRICS GOMAXPROCS HOME HOSTNAME \
                  HOST_IP HTTPS_PROXY HTTP_PROXY INSTANCE_ID K8S_NODE_NAME KUBERNETES_PORT \
                  KUBERNETES_PORT_443_TCP KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT \
                  KUBERNETES_SERVICE_PORT_HTTPS LOG_LEVEL MY_NODE_NAME MY_POD_NAME NAMESPACE \
                  NODE_IP NO_PROXY OTEL_SERVICE_NAME PATH POD_IP POD_IPS POD_UID PWD \
                  RUST_LIB_BACKTRACE SERVICE_ACCOUNT_NAME SSL_CERT_DIR SSL_CERT_FILE TERM TZ \
                  SECRET_STORE_SERVICE_HOST SECRET_STORE_PORT_80_TCP_ADDR";
    for name in others.split_whitespace() {
        let with = [("SECRET_STORE_SERVICE_HOST", "10.0.0.1"), (name, "1")];
        assert_eq!(read(&with).warnings, Vec::<String>::new(), "{name}");
    }
}
