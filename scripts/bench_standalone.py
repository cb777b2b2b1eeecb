"""Measures TLS terminators in front of one service, one after the other, in interleaved rounds.

Called by scripts/bench_standalone.sh inside namespaces of its own. The load is plaintext of
`adit bench` and iperf3; an `adit client` speaks TLS with mutual authentication to whoever is
measured, the same for all; behind it is the plaintext service.
"""
import argparse
import json
import os
import pathlib
import resource
import signal
import subprocess
import time

import bench_data as data
import bench_look as look

TLS, TLS_BULK, PLAIN, IPERF = 8443, 8444, 9000, 5201
NEAR, NEAR_BULK = 9001, 5202
TICK = os.sysconf("SC_CLK_TCK")


def spawn(args, log):
    return subprocess.Popen(args, stdout=log, stderr=log, start_new_session=True)


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def group(pid):
    """The processes of one session: a master and its workers."""
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == pid:
            yield int(entry.parent.name), fields


def cpu(process):
    return sum(int(f[11]) + int(f[12]) for _, f in group(process.pid)) / TICK


def resident(process):
    """Proportional set size, so that what workers share counts once; kB."""
    total = 0
    for pid, _ in group(process.pid):
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def listening(port):
    wanted = f":{port:04X}"
    for _ in range(100):
        for table in ("tcp", "tcp6"):
            for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def configs(d, adit, peers):
    """How each peer is started: two listeners, verified client certificates, no resumption."""
    two = [(TLS, PLAIN), (TLS_BULK, IPERF)]
    services = "".join(
        f"- {{ name: s{near}, mode: server, listen: '127.0.0.1:{near}', target: '127.0.0.1:{far}',"
        f" credential: {{ certificate: {d}/server.crt, privateKey: {d}/server.key, roots: {d}/ca.crt }},"
        " allow: { all: true } }\n" for near, far in two)
    (d / "adit.yaml").write_text(f"services:\n{services}")
    clients = "".join(
        f"- {{ name: c{near}, mode: client, listen: '127.0.0.1:{near}', target: 'localhost:{far}',"
        f" credential: {{ certificate: {d}/client.crt, privateKey: {d}/client.key, roots: {d}/ca.crt }}, closeNotify: optional }}\n"
        for near, far in [(NEAR, TLS), (NEAR_BULK, TLS_BULK)])
    (d / "client.yaml").write_text(f"services:\n{clients}")
    pem = (d / "server.crt").read_text() + (d / "server.key").read_text()
    (d / "both.pem").write_text(pem)
    fronts = "".join(
        f"frontend f{near}\n bind 127.0.0.1:{near} ssl crt {d}/both.pem ca-file {d}/ca.crt verify required"
        f" no-tls-tickets\n default_backend b{near}\nbackend b{near}\n server s 127.0.0.1:{far}\n"
        for near, far in two)
    (d / "haproxy.cfg").write_text(
        "global\n nbthread 2\n maxconn 5000\n tune.ssl.cachesize 0\n ssl-default-bind-options ssl-min-ver TLSv1.2\n"
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n" + fronts)
    servers = "".join(
        f"server {{ listen 127.0.0.1:{near} ssl backlog=4096; proxy_pass 127.0.0.1:{far}; proxy_timeout 1h; }}\n"
        for near, far in two)
    (d / "nginx.conf").write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        f"daemon off; worker_processes 2; user root; pid {d}/nginx.pid; error_log {d}/nginx-errors.log;\n"
        "events { worker_connections 16384; }\nstream {\n"
        f"ssl_certificate {d}/server.crt; ssl_certificate_key {d}/server.key; ssl_client_certificate {d}/ca.crt;\n"
        "ssl_verify_client on; ssl_session_cache off; ssl_session_tickets off; ssl_protocols TLSv1.2 TLSv1.3;\n"
        f"{servers}}}\n")
    sections = "".join(
        f"[s{near}]\naccept = 127.0.0.1:{near}\nconnect = 127.0.0.1:{far}\n" for near, far in two)
    (d / "stunnel.conf").write_text(
        f"foreground = yes\npid =\ncert = {d}/server.crt\nkey = {d}/server.key\nCAfile = {d}/ca.crt\n"
        f"verifyChain = yes\nsessionResume = no\noptions = NO_TICKET\ndebug = err\n{sections}")
    known = {
        "adit": [adit, "proxy", "-c", f"{d}/adit.yaml"],
        "haproxy": ["haproxy", "-db", "-f", f"{d}/haproxy.cfg"],
        "nginx": ["nginx", "-c", f"{d}/nginx.conf"],
        "stunnel": ["stunnel4", f"{d}/stunnel.conf"],
    }
    ghost = os.environ.get("GHOSTUNNEL_BINARY")
    if ghost:
        files = ["--cert", f"{d}/server.crt", "--key", f"{d}/server.key", "--cacert", f"{d}/ca.crt"]
        script = " & ".join(
            " ".join([ghost, "server", "--listen", f"127.0.0.1:{near}", "--target", f"127.0.0.1:{far}",
                      "--allow-all", "--quiet=all", *files]) for near, far in two)
        known["ghostunnel"] = ["sh", "-c", f"{script} & wait"]
    return {name: known[name] for name in peers if name in known}


def load(adit, mode, seconds, *more):
    done = subprocess.run(
        [adit, "bench", "run", f"127.0.0.1:{NEAR}", "--mode", mode, "--seconds", str(seconds),
         "--json", "--quiet", *more], capture_output=True, text=True, timeout=seconds + 60)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"adit bench {mode}: {done.stdout}{done.stderr}") from None


def failed(result):
    counts = result["failures"].values()
    return sum(c if isinstance(c, int) else c.get("count", 1) for c in counts)


def round_of(adit, peer, args, seconds, idle):
    found = {}
    log = open(options.dir / f"{peer}.log", "w")
    client_log = open(options.dir / "client.log", "w")
    process = spawn(args, log)
    client = None
    try:
        listening(TLS)
        listening(TLS_BULK)
        client = spawn([adit, "proxy", "-c", options.dir / "client.yaml"], client_log)
        listening(NEAR)
        listening(NEAR_BULK)
        # Before anything has made the process grow.
        before = resident(process)
        holder = subprocess.Popen(
            [adit, "bench", "run", f"127.0.0.1:{NEAR}", "--mode", "idle", "--connections", str(idle),
             "--seconds", "6", "--warmup", "0", "--json", "--quiet"], stdout=subprocess.DEVNULL)
        time.sleep(5)
        found["kb_per_idle_connection"] = (resident(process) - before) / idle
        holder.wait()
        load(adit, "churn", 1, "--warmup", "0.2")
        before = cpu(process)
        churn = load(adit, "churn", seconds, "--connections", "8", "--warmup", "0")
        done = churn["operations"] + failed(churn)
        if churn["failures"]:
            print(f"{peer}: {json.dumps(churn['failures'])[:300]}", flush=True)
        found["handshakes_per_second"] = churn["operations_per_second"]
        found["cpu_us_per_handshake"] = (cpu(process) - before) * 1e6 / max(done, 1)
        paced = load(adit, "churn", seconds, "--connections", "4", "--rate", "100")
        # Where no connection came back in time there is no latency: null, which the report leaves out.
        found["new_connection_p50_us"] = paced.get("latency_us", {}).get("p50")
        found["new_connection_p99_us"] = paced.get("latency_us", {}).get("p99")
        found["failures"] = failed(churn) + failed(paced)
        for size in ("1K", "16K", "256K"):
            before = cpu(process)
            done = subprocess.run(
                ["iperf3", "-c", "127.0.0.1", "-p", str(NEAR_BULK), "-t", str(seconds), "-l", size, "-J"],
                capture_output=True, text=True, timeout=seconds + 60)
            total = json.loads(done.stdout)["end"]["sum_received"]
            found[f"gbit_{size}"] = total["bits_per_second"] / 1e9
            found[f"cpu_s_per_gb_{size}"] = (cpu(process) - before) / (total["bytes"] / 1e9)
    finally:
        if client:
            end(client)
        end(process)
    shown = (f"{data.METRICS[k].text} {look.people(v, data.METRICS[k].unit)}" for k, v in found.items()
             if k != "failures" and v is not None)
    print(f"{look.name(peer)}: {'; '.join(shown)}; {found['failures']} failed connections", flush=True)
    return found


parser = argparse.ArgumentParser()
parser.add_argument("adit")
parser.add_argument("--dir", type=pathlib.Path, required=True)
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--seconds", type=int, default=3)
parser.add_argument("--idle", type=int, default=1000)
parser.add_argument("--proxies", default="adit,haproxy,nginx,stunnel,ghostunnel")
options = parser.parse_args()
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
peers = configs(options.dir, options.adit, options.proxies.split(","))
with open(options.dir / "log", "w") as log:
    behind = [spawn([options.adit, "bench", "serve", "--listen", f"127.0.0.1:{PLAIN}"], log),
              spawn(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(IPERF)], log)]
    try:
        listening(PLAIN)
        listening(IPERF)
        with open(options.out / "raw.jsonl", "a") as kept:
            for n in range(options.rounds):
                for name, args in peers.items():
                    found = round_of(options.adit, name, args, options.seconds, options.idle)
                    kept.write(json.dumps({"round": n, "proxy": name, **found}) + "\n")
                    kept.flush()
    finally:
        for process in behind:
            end(process)
