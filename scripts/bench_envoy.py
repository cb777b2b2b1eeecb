"""Prints an Envoy configuration for one side of the bench: HBONE between two Envoys.

Usage: bench_envoy.py SIDE DIR
"""
import json, sys

side, folder = int(sys.argv[1]), sys.argv[2]
TYPE = "type.googleapis.com/envoy.extensions."


def tls(kind, **more):
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{
            "certificate_chain": {"filename": f"{folder}/pod{side}.pem"},
            "private_key": {"filename": f"{folder}/pod{side}-key.pem"},
        }],
        "validation_context": {"trusted_ca": {"filename": f"{folder}/eca/root.pem"}},
    }
    context = {"@type": TYPE + f"transport_sockets.tls.v3.{kind}TlsContext", "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def address(ip, port):
    return {"socket_address": {"address": ip, "port_value": port}}


def static(name, ip, port):
    endpoint = {"endpoint": {"address": address(ip, port)}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def circuit(cluster):
    limits = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    return {**cluster, "circuit_breakers": {"thresholds": [limits]}}


if side == 1:
    proxy = {
        "@type": TYPE + "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "out", "cluster": "far",
        "tunneling_config": {"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"},
    }
    http2 = {
        "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
    }
    far = circuit({
        **static("far", "10.77.0.2", 15008), "transport_socket": tls("Upstream"),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    })
    listener = {
        "name": "captured", "address": address("0.0.0.0", 15001),
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": TYPE + "filters.listener.original_dst.v3.OriginalDst"},
        }],
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
    }
    clusters = [far]
else:
    def route(port):
        match = {"connect_matcher": {}, "headers": [{"name": ":authority", "string_match": {"suffix": f":{port}"}}]}
        upgrade = [{"upgrade_type": "CONNECT", "connect_config": {}}]
        return {"match": match, "route": {"cluster": f"app{port}", "timeout": "0s", "upgrade_configs": upgrade}}

    ports = [5201, 8080, 9000, 9100]
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in", "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": 200},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route(p) for p in ports]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"},
        }],
    }
    listener = {
        "name": "hbone", "address": address("10.77.0.2", 15008),
        "filter_chains": [{
            "transport_socket": tls("Downstream", require_client_certificate=True),
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }],
    }
    clusters = [circuit(static(f"app{p}", "10.77.0.2", p)) for p in ports]
json.dump({"static_resources": {"listeners": [listener], "clusters": clusters}}, sys.stdout, indent=1)
