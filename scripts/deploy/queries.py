"""queries.py FOLDER FAMILIES: the queries of the dashboards in FOLDER, as rules that promtool can check.
Exit code 1 if a query of them, or of alerts.yaml, asks for a series that nobody has: neither adit
(FAMILIES) nor those that are scraped beside it.

queries.py FOLDER --scraped METRICS…: a test for promtool, that each of them finds a series in what
was scraped from node proxies, a file each."""

import json, pathlib, re, sys

# Of Kubernetes, istio-cni and Prometheus.
BESIDE = {
    "container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
    "kube_pod_container_status_restarts_total", "kube_pod_status_ready", "up", "ztunnel_connected",
}
# What has no series before something goes wrong, or without CRLs and other trust domains.
AT_TIMES = {
    "adit_accept_errors_total", "adit_crl_faults", "adit_federation_fetches_total", "adit_handshake_failures_total",
    "adit_tunnels_closed_total", "istio_crl_policy_rejections_total",
}
SERIES = re.compile(r"\b(?:adit|istio|process|tokio|workload_manager|container|kube|ztunnel)_[a-z_]+\b|\bup(?=\{)")
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([-+.0-9eE]+)$")


def queries(folder):
    for path in sorted(folder.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield target["expr"].replace("$__rate_interval", "5m").replace("$pod", ".*")


def asked(text):
    return set(SERIES.findall(re.sub(r'"[^"]*"', '""', text)))


def rules(folder, families):
    alerts = "".join(line for line in (folder / "alerts.yaml").read_text().splitlines(True) if not line.startswith("#"))
    alerts = re.sub(r"- name: .*|alert: .*|(summary|description|runbook_url): .*", "", alerts)
    known = BESIDE | {line.split(" ")[0] for line in families.read_text().splitlines()}
    missing = set().union(*map(asked, [*queries(folder), alerts])) - known
    for name in sorted(missing):
        print(f"nobody has {name}", file=sys.stderr)
    print("groups: [{ name: dashboards, rules: [")
    for number, query in enumerate(queries(folder)):
        print(f"  {{ record: 'query:{number}', expr: {json.dumps(query)} }},")
    print("] }]")
    return not missing


def scraped(folder, files):
    samples = {}
    for file in files:
        for name, labels, value in (m.groups() for m in map(SAMPLE.match, file.read_text().splitlines()) if m):
            own = f'app="ztunnel", pod="ztunnel-{file.stem}"'
            samples[f"{name}{{{labels + ', ' if labels else ''}{own}}}"] = value
    ours = any(series.startswith("adit_") for series in samples)
    print("evaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:")
    for series, value in samples.items():
        print(f"  - {{ series: {json.dumps(series)}, values: '{value}x10' }}")
    print("  promql_expr_test:")
    count = 0
    for query in queries(folder):
        names = asked(query)
        if names & (BESIDE | AT_TIMES) or not ours and any(name.startswith(("adit_", "process_cpu_")) for name in names):
            continue
        count += 1
        print(f"  - {{ expr: {json.dumps(f'count({query}) > bool 0')}, eval_time: 9m, exp_samples: [{{ labels: '{{}}', value: 1 }}] }}")
    print(count, file=sys.stderr)
    return True


if __name__ == "__main__":
    folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
    files = [pathlib.Path(name) for name in sys.argv[3:]]
    sys.exit(not (scraped(folder, files) if how == "--scraped" else rules(folder, pathlib.Path(how))))
