"""Namespaces, adit processes and a load for the storms."""
import json, os, pathlib, shutil, subprocess, sys, time, urllib.error, urllib.request

HERE = pathlib.Path(__file__).parent
DIR = pathlib.Path("/run/lab")
PODS = {"web": 1, "db": 2, "own": 3}


def sh(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{line}: {done.stderr or done.stdout}")
    return done.stdout


def make_pods():
    """Three pods on one bridge; what was in /run stays outside."""
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lab && ip link set lo up")
    sh("ip netns add bridge && ip -n bridge link add br0 type bridge && ip -n bridge link set br0 up")
    for name, n in PODS.items():
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip -n {name} link add eth0 type veth peer name v{n} netns bridge")
        sh(f"ip -n bridge link set v{n} master br0 up && ip -n {name} link set eth0 up")
        sh(f"ip -n {name} addr add 10.77.0.{n}/24 dev eth0")


def start(command, log, pod=None, env=None):
    inside = ["ip", "netns", "exec", pod] if pod else []
    out = open(log, "a")
    env = {**os.environ, **(env or {})}
    return subprocess.Popen(inside + [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)


def end(process, patience=15):
    """SIGTERM, and SIGKILL for who does not listen; by its own id."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(what, is_so, seconds=20):
    began = time.monotonic()
    while not (found := is_so()):
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not {what} after {seconds} s")
        time.sleep(0.02)
    return found


def get(url, method="GET"):
    """Status and body; status 0 if nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Node:
    """One adit. `n` numbers its ports: all nodes run in one network namespace."""

    def __init__(self, adit, n, trust_domain, ca, extra="", env=None):
        self.adit, self.n, self.env, self.extra = adit, n, env, extra
        self.head = f"""trustDomain: {trust_domain}
node: n{n}
ca: {ca}
capture: {{ rules: nft }}
accessLog: {{ format: json }}
drain: {{ deadline: 1s }}
workers: 2
pool: {{ idle: 1s, maxStreams: 4 }}
admin: {{ address: "127.0.0.1:{n}5000" }}
metrics: {{ address: "127.0.0.1:{n}5020" }}
readiness: {{ address: "127.0.0.1:{n}5021" }}
"""
        self.file, self.log = DIR / f"mesh{n}.yaml", DIR / f"adit{n}.log"

    def write(self, workloads, callers):
        callers = ", ".join(f'"{caller}"' for caller in callers)
        body = f"""workloads:
{workloads}policies:
- metadata: {{ name: db-callers, namespace: storm }}
  spec: {{ selector: {{ matchLabels: {{ app: db }} }}, rules: [ {{ from: [ {{ source: {{ principals: [{callers}] }} }} ] }} ] }}
"""
        self.body = body
        self.put(self.head + self.extra + body)

    def put(self, text):
        self.file.with_suffix(".new").write_text(text)
        self.file.with_suffix(".new").rename(self.file)

    def start(self):
        self.process = start([self.adit, "run", "-c", self.file], self.log, env=self.env)
        try:
            until("ready", lambda: self.ready()[0] == 200)
        except TimeoutError as error:
            sys.exit(f"node {self.n}: {error}: {self.ready()}\n{self.log.read_text()[-3000:]}")

    def ready(self):
        return get(f"http://127.0.0.1:{self.n}5021/healthz/ready")

    def admin(self, path, method="GET"):
        return get(f"http://127.0.0.1:{self.n}5000{path}", method)[1]

    def certs(self):
        return json.loads(self.admin("/certs") or "{}")

    def cert(self, name):
        of = (c for c in self.certs().get("certificates", []) if c["identity"].endswith(f"/{name}"))
        return next(of, {})

    def serials(self):
        """Of all SVIDs it ever had."""
        return [e["serial"] for e in self.entries() if e.get("message") == "SVID issued"]

    def entries(self, since=0):
        """Its log from byte `since` on."""
        with open(self.log) as log:
            log.seek(since)
            for line in log:
                try:
                    entry = json.loads(line)
                    yield {**entry, **entry.get("fields", {})}
                except ValueError:
                    pass

    def size(self):
        return self.log.stat().st_size

    def memory(self):
        """Resident KB and open descriptors."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(rss), len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Load:
    """What runs through a storm, from one pod to db."""

    port = 5200

    def __init__(self, pod="web", loops=4, burst=8, rate=10_000_000, iperf=True):
        self.out = DIR / f"load-{pod}"
        self.out.unlink(missing_ok=True)
        call = [sys.executable, "-B", HERE / "load.py", "call", "10.77.0.2", 9000, loops, burst, rate, self.out]
        self.iperf, self.report = None, DIR / f"iperf-{pod}.json"
        self.report.unlink(missing_ok=True)
        if iperf:
            # A server of its own: one that has just lost its client is busy for a while.
            Load.port += 1
            self.server = start(["iperf3", "-s", "-1", "-p", Load.port], DIR / "far.log", "db")
            listening(Load.port)
            self.iperf = start(["iperf3", "-c", "10.77.0.2", "-p", Load.port, "-t", 3600, "-J"], self.report, pod)
        self.caller = start(call, DIR / "load.log", pod)
        until("loaded", lambda: len(self.events()) > 20)
        self.began = time.monotonic()

    def events(self):
        """(time, kind, why) of each connection; why is `ok` or what went wrong."""
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        return [(float(at), kind, why) for at, kind, why in (line.split(" ", 2) for line in lines if line.count(" ") >= 2)]

    def new(self, since=0.0, till=1e18):
        """Made and failed among the new connections that ended in this time."""
        ended = [why for at, kind, why in self.events() if kind == "new" and since <= at < till]
        return len(ended), sum(why != "ok" for why in ended)

    def first(self, ok, since):
        """When the first new connection succeeded, or failed, after `since`; None if none did."""
        return next((at for at, kind, why in self.events() if kind == "new" and at > since and (why == "ok") == ok), None)

    def end(self):
        alive = self.iperf is not None and self.iperf.poll() is None
        if alive:
            self.iperf.send_signal(2)
            self.iperf.wait(20)
        end(self.caller, 40)
        if self.iperf:
            end(self.iperf)
            end(self.server, 2)
        made, failed = self.new()
        others = {kind.split(":")[0]: (kind, why) for _, kind, why in self.events() if kind != "new"}
        stream, why = others.get("stream", ("stream:0", "no end"))
        try:
            sent = json.loads(self.report.read_text())["end"]["sum_sent"]["bytes"] if self.iperf else 0
        except (ValueError, KeyError):
            sent = 0
        whys = {}
        for _, kind, text in self.events():
            if kind == "new" and text != "ok":
                whys[text] = whys.get(text, 0) + 1
        return {
            "seconds": round(time.monotonic() - self.began, 1), "connections": made, "failed": failed, "failures": whys,
            "held": others.get("held", ("held", "no end"))[1], "stream_bytes": int(stream.split(":")[1]), "stream": why,
            "iperf3_bytes": sent, "iperf3": "unbroken" if alive and sent else "broken",
        }


def far_ends():
    """What db runs."""
    echo = start([sys.executable, "-B", HERE / "load.py", "serve", "0.0.0.0", 9000], DIR / "far.log", "db")
    listening(9000)
    return [echo]


def listening(port):
    until(f"listening on {port}", lambda: f":{port} " in sh("ip netns exec db ss -Hltn"))


def fresh(*names):
    for name in names:
        path = DIR / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
