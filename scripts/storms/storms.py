"""The storms of scripts/identity_storms.sh, and their verdict.

Usage: storms.py ADIT_BINARY [--quick] [--json] [STORM…], inside namespaces of its own.
"""
import datetime, json, os, pathlib, sys, time

import trust
from lab import DIR, Load, Node, end, far_ends, fresh, make_pods, sh, start, until

HOUR = 3600
WORKLOADS = """- { name: web, namespace: storm, serviceAccount: web, addresses: [10.77.0.1], node: n1, netns: web, trustDomain: TD1 }
- { name: db, namespace: storm, serviceAccount: db, addresses: [10.77.0.2], node: n2, netns: db, labels: { app: db }, trustDomain: TD2 }
- { name: own, namespace: storm, serviceAccount: own, addresses: [10.77.0.3], node: n2, netns: own, trustDomain: TD2 }
"""


class Storm:
    """Two nodes and what is found out about them."""

    def __init__(self, adit, quick):
        self.adit, self.quick, self.rows, self.running, self.faults = adit, quick, [], [], 0

    def check(self, what, found, so):
        print(f"{'ok' if so else 'FAIL'} {what}: {found}", flush=True)
        self.faults += not so

    def nodes(self, domains, ca, extra=("", ""), env=(None, None)):
        for n in (1, 2):
            fresh(f"adit{n}.log")
        nodes = [Node(self.adit, n, domains[n - 1], ca[n - 1], extra[n - 1], env[n - 1]) for n in (1, 2)]
        workloads = WORKLOADS.replace("TD1", domains[0]).replace("TD2", domains[1])
        callers = [f"{domains[0]}/ns/storm/sa/web", f"{domains[1]}/ns/storm/sa/own"]
        for node in nodes:
            node.write(workloads, callers)
        return nodes

    def run(self, *nodes):
        for node in nodes:
            node.start()
            self.running.append(node.process)
        self.running += far_ends()

    def over(self):
        for process in reversed(self.running):
            end(process)
        self.running.clear()

    def verdict(self, name, load, events, unbroken=True, failed=0):
        """A row of the table. `failed`: how many new connections may have."""
        row = {"storm": name, **load, "events": events}
        self.rows.append(row)
        self.check(f"{name}: connections", f"{load['connections']} made, {load['failed']} failed {load['failures'] or ''}",
                   load["connections"] > 0 and (load["failed"] == 0) == (failed == 0))
        if unbroken:
            whole = load["held"] == load["stream"] == "ok" and load["iperf3"] == "unbroken"
            self.check(f"{name}: what was open", f"held {load['held']}, stream of {load['stream_bytes'] / 1e6:.0f} MB "
                       f"{'whole by its SHA-256' if load['stream'] == 'ok' else load['stream']}, "
                       f"iperf3 {load['iperf3']} after {load['iperf3_bytes'] / 1e9:.1f} GB", whole)
        return row


def renewed(node, before):
    return len(node.serials()) - before


def root(storm):
    """A new root for two nodes that share a CA's folder."""
    ca = f"{{ embedded: {{ dir: {DIR}/ca, svidLifetime: 10s }} }}"
    nodes = storm.nodes(["cluster.local"] * 2, [ca] * 2)
    storm.run(*nodes)
    roots = lambda: [a["id"][:8] for a in json.loads(sh(f"{storm.adit} ca show --json --dir {DIR}/ca"))["x509"]]
    before, had = roots(), [len(n.serials()) for n in nodes]
    load = Load()
    said = sh(f"{storm.adit} ca rotate --no-revoke --dir {DIR}/ca --overlap {'3s' if storm.quick else '10s'}")
    time.sleep(1 if storm.quick else 6)
    found = load.end()
    both = roots()
    issued = [renewed(n, h) for n, h in zip(nodes, had)]
    storm.check("root: a new one signs, and the old one is still trusted", said.splitlines()[-1], len(both) == 2)
    storm.check("root: SVIDs renewed meanwhile", issued, all(issued))
    storm.verdict("root rotation", found, f"root {before[0]} -> {', '.join(both)}; {sum(issued)} SVIDs issued")
    # Tunnels that began under the old one have ended when they were idle for a second.
    time.sleep(2.5)
    load = Load()
    time.sleep(1)
    said = sh(f"{storm.adit} ca revoke --dir {DIR}/ca")
    time.sleep(3)
    found = load.end()
    after = roots()
    storm.check("root: the new one alone is left", f"{said.strip()}: {after}", len(after) == 1 and after[0] in both and after != before)
    storm.verdict("old root revoked", found, f"root {', '.join(both)} -> {after[0]}")


def serve_ca(storm, env=None):
    ca = start([storm.adit, "ca", "serve", "-c", DIR / "ca.yaml"], DIR / "ca.log", env=env)
    storm.running.insert(0, ca)
    return ca


def ca_server(storm, lifetime, env=None):
    """`adit ca serve`, and the `ca` of the nodes that it issues to."""
    fresh("ca", "ca.log")
    trust.tokens(DIR)
    (DIR / "ca.yaml").write_text(f"""listen: 127.0.0.1:15012
trustDomain: cluster.local
dir: {DIR}/ca
serverNames: [ca.test]
svidLifetime: {lifetime}
attestors:
  kubernetes: {{ issuer: "https://kubernetes.test", jwks: {DIR}/jwks, trustedNodeAccounts: [sys/adit], pods: {DIR}/pods }}
""")
    ca = serve_ca(storm, env)
    until("serving", lambda: "serving" in (DIR / "ca.log").read_text())
    source = lambda n: (f'{{ istiod: {{ address: "https://127.0.0.1:15012", serverName: ca.test, token: {DIR}/token{n}, '
                        f"roots: {DIR}/ca/bundle.pem, svidLifetime: {lifetime} }} }}")
    return ca, [source(1), source(2)]


def outage(storm):
    """The CA is away for longer than an SVID lives."""
    ca, sources = ca_server(storm, "30s")
    nodes = storm.nodes(["cluster.local"] * 2, sources)
    storm.run(*nodes)
    load = Load()
    time.sleep(3)
    had = [n.serials() for n in nodes]
    away = time.monotonic()
    end(ca)
    storm.running.remove(ca)
    budgets, turned, spent = [], {}, {}
    while time.monotonic() - away < 45:
        for node in nodes:
            at, certs, ready = time.monotonic(), node.certs(), node.ready()
            budget = certs.get("outageBudgetSeconds")
            if node.n == 1:
                budgets.append(budget)
            if certs.get("withoutValidSvid"):
                spent.setdefault(node.n, at)
            if ready[0] != 200:
                turned.setdefault(node.n, (at, ready[1].strip()))
        time.sleep(0.05)
    dark = load.first(False, away)
    back = time.monotonic()
    serve_ca(storm)
    up = until("a connection again", lambda: load.first(True, back), 30)
    until("ready again", lambda: all(n.ready()[0] == 200 for n in nodes), 30)
    ready = time.monotonic()
    time.sleep(12)
    found = load.end()
    before, during, after = load.new(0, dark or 1e18), load.new((dark or 0) + 0.5, back), load.new(up + 2)
    storm.check("outage: while SVIDs lasted", f"{before[0]} made, {before[1]} failed in {(dark or away) - away:.1f} s without the CA", before[1] == 0 and before[0] > 0)
    storm.check("outage: after that new ones fail closed", f"{during[0]} tried, {during[1]} failed", 0 < during[0] == during[1])
    storm.check("outage: the CA is back: recovered with nobody's help",
                f"first connection after {up - back:.1f} s, both ready after {ready - back:.1f} s; from 2 s later on {after[0]} made, {after[1]} failed",
                after[1] == 0 and after[0] > 0 and ready - back < 10)
    down = sorted(set(b for b in budgets if b is not None), reverse=True)
    storm.check("outage: the budget counts down", f"{down[0]} … {down[-1]} s in {len(down)} steps", down[-1] == 0 and budgets == sorted(budgets, reverse=True))
    late = {n: turned[n][0] - spent[n] for n in turned if n in spent}
    storm.check("outage: readiness turns when it is spent", f"{ {n: f'{s:+.2f} s' for n, s in late.items()} }", len(late) == 2 and all(abs(s) < 0.5 for s in late.values()))
    reason = turned.get(1, (0, ""))[1]
    storm.check("outage: and names the source", reason[:230], "istiod at https://127.0.0.1:15012" in reason)
    logged = next((e for e in nodes[0].entries() if e.get("target") == "access" and "no SVID" in str(e.get("error", ""))), {})
    storm.check("outage: so does the access log", f"{logged.get('reason')}: {str(logged.get('error'))[:160]}", bool(logged))
    new = [len(n.serials()) - len(h) for n, h in zip(nodes, had)]
    storm.verdict("CA outage of 45 s, SVIDs of 30 s", found,
                  f"{before[0]} before the end of SVIDs: {before[1]} failed; {during[1]}/{during[0]} refused after it; back after {up - back:.1f} s", failed=during[1])
    storm.check("outage: new SVIDs since", new, all(new))


def clock(storm):
    """Clocks that are set, by libfaketime: of all processes, and of one node only."""
    lib = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
    if not lib:
        return storm.check("clock: libfaketime", "not found", False)
    everyone, one = DIR / "clock", DIR / "clock-n1"

    def set_to(path, offset):
        new = path.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.rename(path)

    def faked(path):
        return {"LD_PRELOAD": str(lib), "FAKETIME_TIMESTAMP_FILE": str(path), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}

    def follow():
        new = one.with_suffix(".new")
        new.symlink_to(everyone)
        new.rename(one)

    set_to(everyone, 0)
    one.unlink(missing_ok=True)
    one.symlink_to(everyone)
    _, sources = ca_server(storm, "1h", faked(everyone))
    nodes = storm.nodes(["cluster.local"] * 2, sources, env=(faked(one), faked(everyone)))
    storm.run(*nodes)
    shown = lambda node: node.cert("web" if node.n == 1 else "db")

    def offset():
        """By how much node 1's own clock differs from ours: by when it obtained its SVID."""
        at = datetime.datetime.fromisoformat(shown(nodes[0])["lastSuccess"][:19] + "+00:00")
        return at.timestamp() - time.time()

    for name, what, change, reachable in [
        ("clock: all +1 h", "forward", lambda: set_to(everyone, HOUR + 60), True),
        ("clock: all -1 h", "back", lambda: set_to(everyone, 0), True),
        ("clock: node 1 alone +1 h", "forward", lambda: set_to(one, HOUR + 60), False),
        ("clock: node 1 alone -1 h", "back", lambda: set_to(one, -HOUR), False),
    ]:
        load = Load()
        time.sleep(2)
        before = [shown(n).get("serialNumber") for n in nodes]
        marks, stepped = [n.size() for n in nodes], time.monotonic()
        change()
        if reachable:
            until("renewed", lambda: all(shown(n).get("serialNumber") != b for n, b in zip(nodes, before)), 40)
            took = time.monotonic() - stepped
            time.sleep(5)
            found = load.end()
            storm.check(f"{name}: SVIDs renewed at once", f"after {took:.1f} s, node 1's clock is {offset():+.0f} s from ours", took < 5)
            # Whose handshake or request was on its way in the instant of the step showed, rightly
            # until then, what its peer must refuse a moment later.
            at_once, late = load.new(stepped, stepped + 1)[1], load.new(stepped + 1)[1]
            reasons = sorted({f"{e['reason']}: {e.get('error', '')}"[:160] for n, m in zip(nodes, marks) for e in n.entries(m)
                              if e.get("target") == "access" and e["reason"] != "completed"}) if at_once else []
            if at_once:
                print(f"   in the instant of the step: {at_once} failed; {'; '.join(reasons)}")
            events = f"all SVIDs renewed after {took:.1f} s; {at_once} failed in the instant of the step, {late} later"
            storm.verdict(name, found, events, failed=at_once if at_once <= 12 and not late else 0)
            continue
        until("noticed", lambda: load.new(stepped)[1] > 20, 20)
        time.sleep(4)
        back = time.monotonic()
        follow()
        up = until("a connection again", lambda: load.first(True, back), 60)
        time.sleep(5)
        found = load.end()
        dark = load.first(False, stepped)
        wrong, after = load.new(dark + 0.5, back), load.new(up + 2)
        errors = [str(e["error"]) for e in nodes[0].entries(marks[0]) if e.get("target") == "access" and "no SVID" in str(e.get("error", ""))]
        storm.check(f"{name}: new connections fail closed, and say why", f"{wrong[1]} of {wrong[0]}: {(errors or ['?'])[0][:200]}", bool(errors) and wrong[1] == wrong[0])
        storm.check(f"{name}: set right again", f"first connection after {up - back:.1f} s; from 2 s later on {after[0]} made, {after[1]} failed", after[1] == 0 and after[0] > 0 and up - back < 10)
        storm.verdict(name, found, f"{wrong[1]}/{wrong[0]} refused while wrong; recovered after {up - back:.1f} s", failed=wrong[1])


def federation(storm):
    """Two trust domains; a bundle that goes backwards, and a trust domain that is taken out."""
    fresh("ca1", "ca2")
    trust.server_certificate(DIR)
    domains, seconds = ["one.test", "two.test"], 30 if storm.quick else 60
    cas = [f"{{ embedded: {{ dir: {DIR}/ca{n}, svidLifetime: {seconds}s }} }}" for n in (1, 2)]
    web = f"profile: https_web, roots: {DIR}/https.pem"
    serving = "serve: {{ listen: 127.0.0.1:{}, profile: https_web, certificate: {}/https.pem, privateKey: {}/https-key.pem }}"
    extra = [f'federation:\n  trustDomains: [ {{ name: {other}, bundleEndpoint: {{ url: "https://localhost:{port}/", {web} }} }} ]\n  {serving.format(own, DIR, DIR)}\n'
             for other, port, own in (("two.test", 8402, 8401), ("one.test", 8499, 8402))]
    nodes = storm.nodes(domains, cas, extra)
    # Between node 2 and node 1's endpoint stands one that says what this script wants.
    teller = trust.Teller(DIR, "https://localhost:8401/")
    storm.run(*nodes)
    until("federated", lambda: all('"Available"' in n.admin("/federation") for n in nodes))
    refresh = lambda: nodes[1].admin("/federation/refresh?trustDomain=one.test", "POST")
    known = lambda: json.loads(nodes[1].admin("/federation"))[0]
    truth = teller.ask()
    teller.tell(truth, truth["spiffe_sequence"] + 100)
    refresh()
    until("known", lambda: known()["sequence"] == truth["spiffe_sequence"] + 100)
    load, told, had = Load(), 0, len(nodes[1].serials())
    for back in range(20):
        teller.tell({**truth, "keys": []}, truth["spiffe_sequence"] + 99 - back)
        asked = teller.asked
        refresh()
        until("asked", lambda: teller.asked > asked)
        time.sleep(0.1)
        told += "went back" in str(known()["lastError"])
    error = known()["lastError"]
    teller.tell(truth, truth["spiffe_sequence"] + 101)
    refresh()
    until("forward", lambda: known()["sequence"] == truth["spiffe_sequence"] + 101)
    time.sleep(2)
    found = load.end()
    storm.check("federation: 20 bundles that went back, with no authority in them, were not taken", f"{told} times: {error}", told == 20)
    storm.verdict("bundle going backwards", found, f"{told} refused, then {truth['spiffe_sequence'] + 101} taken; {renewed(nodes[1], had)} SVIDs issued")

    foreign, own = Load(iperf=False), Load("own", iperf=False)
    time.sleep(1)
    mark, removed = nodes[1].size(), time.monotonic()
    nodes[1].put(nodes[1].head + nodes[1].extra.replace(nodes[1].extra.splitlines()[1], "  trustDomains: []") + nodes[1].body)
    closed = until("closed", lambda: next((at for at, kind, why in foreign.events() if kind == "held" and why != "ok"), None))
    stream = until("closed", lambda: next((at for at, kind, why in foreign.events() if kind.startswith("stream") and why != "ok"), None))
    time.sleep(3)
    reasons = sorted({e["reason"] for e in nodes[1].entries(mark) if e.get("target") == "access" and e.get("direction") == "inbound" and e["reason"] != "completed"})
    put = time.monotonic()
    nodes[1].put(nodes[1].head + nodes[1].extra + nodes[1].body)
    up = until("a connection again", lambda: foreign.first(True, put), 30)
    time.sleep(2)
    theirs, ours = foreign.end(), own.end()
    refused, again = foreign.new(closed, put), foreign.new(up + 1)
    storm.check("federation: a trust domain taken out: its open connections close", f"{closed - removed:.1f} and {stream - removed:.1f} s after the edit, {reasons}", "trust_domain_removed" in reasons)
    storm.check("federation: its new connections are refused", f"{refused[1]} of {refused[0]}", 0 < refused[0] == refused[1])
    storm.check("federation: our own go on", f"{ours['connections']} made, {ours['failed']} failed, held {ours['held']}, stream {ours['stream']}", ours["failed"] == 0 and ours["held"] == ours["stream"] == "ok")
    storm.check("federation: put in again", f"first connection after {up - put:.1f} s; from 1 s later on {again[0]} made, {again[1]} failed", again[1] == 0 and again[0] > 0)
    ours["iperf3"] = "-"
    storm.verdict("trust domain taken out: our own", ours, f"foreign: {refused[1]}/{refused[0]} refused", unbroken=False)
    teller.close()


def files(storm):
    """A thousand rewrites of certificate, key and bundle, most of them wrong."""
    fresh("set1", "set2", "pki")
    pki = trust.Pki(DIR / "pki")
    for n in (1, 2):
        (DIR / f"set{n}").mkdir()
    web = [pki.issue("spiffe://cluster.local/ns/storm/sa/web") for _ in range(12)]
    stranger = pki.issue("spiffe://cluster.local/ns/storm/sa/web", pki.other)
    sets = {1: web, 2: [pki.issue("spiffe://cluster.local/ns/storm/sa/db")]}
    bundle = pki.root.read_text()
    for n in (1, 2):
        trust.put(DIR / f"set{n}", {"tls.crt": sets[n][0][0], "tls.key": sets[n][0][1], "ca.crt": bundle})
    nodes = storm.nodes(["cluster.local"] * 2, [f"{{ files: {{ dir: {DIR}/set{n} }} }}" for n in (1, 2)])
    # One file serves one pod: the third is not carried here.
    for node in nodes:
        node.put(node.file.read_text().replace("node: n2, netns: own", "node: n3"))
    storm.run(*nodes)
    time.sleep(2)
    idle = [n.memory()[1] for n in nodes]
    load, at = Load(), DIR / "set1"
    time.sleep(2)
    warm, had, mark = [n.memory() for n in nodes], len(nodes[0].serials()), nodes[0].size()
    rewrites, samples = 250 if storm.quick else 1000, []
    for n in range(rewrites):
        kind = trust.KINDS[n % len(trust.KINDS)]
        trust.rewrite(at, kind, web[n % len(web)], web[(n + 5) % len(web)], stranger, bundle, pki)
        # Long enough, now and then, to be judged; otherwise the next comes in the middle.
        time.sleep(0.7 if n % 23 == 0 else 0.004)
        if n % 50 == 0:
            samples.append(nodes[0].memory())
    final = pki.issue("spiffe://cluster.local/ns/storm/sa/web")
    trust.rewrite(at, "good", final, final, stranger, bundle, pki)
    serial = trust.serial(final[0])
    until("the last set", lambda: nodes[0].cert("web").get("serialNumber") == serial, 10)
    time.sleep(2)
    cold = [n.memory() for n in nodes]
    found = load.end()
    # While connections run, their sockets come and go: a leak shows when they are gone.
    calm = lambda: all(n.memory()[1] <= had + 12 for n, had in zip(nodes, idle))
    leaked = None
    try:
        until("the descriptors of before", calm, 10)
    except TimeoutError:
        leaked = [n.memory()[1] for n in nodes]
    judged = [e for e in nodes[0].entries(mark) if "files rejected" in e.get("message", "")]
    taken = renewed(nodes[0], had)
    strangers = trust.serial(stranger[0]) in nodes[0].serials()
    storm.check("files: sets taken, sets refused", f"{taken} taken, {len(judged)} kinds of wrong ones refused while the last good one stayed; the last is in use", taken > 1 and len(judged) > 1 and not strangers)
    why = sorted({str(e["error"]).split(": ", 1)[-1][:60] for e in judged})
    print("   " + "; ".join(why[:6]))
    half = len(samples) // 2
    storm.check("files: memory and descriptors flat", f"KB, descriptors: {warm[0]} at first, {samples[half]} half way, {cold[0]} after; the other node {warm[1]}, {cold[1]}",
                cold[0][0] < samples[half][0] * 1.2 + 1024)
    left = [n.memory()[1] for n in nodes]
    storm.check("files: no descriptor is left over", f"{idle} before the load, {left} after it", leaked is None)
    storm.verdict(f"files rewritten {rewrites} times", found, f"{taken} sets taken, {len(judged)} refusals told")


STORMS = {"root": root, "outage": outage, "clock": clock, "federation": federation, "files": files}


def main():
    adit, *rest = sys.argv[1:]
    quick, as_json = "--quick" in rest, "--json" in rest
    names = [name for name in rest if not name.startswith("--")] or (["root", "federation", "files"] if quick else list(STORMS))
    if unknown := [n for n in names if n not in STORMS]:
        sys.exit(f"no such storm: {unknown[0]}; there are {', '.join(STORMS)}")
    if as_json:
        out, sys.stdout = sys.stdout, sys.stderr
    make_pods()
    storm = Storm(adit, quick)
    for name in names:
        print(f"-- {name}: {STORMS[name].__doc__}", flush=True)
        try:
            STORMS[name](storm)
        except (TimeoutError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            storm.check(name, f"{type(error).__name__}: {error}", False)
            for log in sorted(DIR.glob("*.log")):
                print(f"--- {log.name}\n" + "\n".join(line[:300] for line in log.read_text().splitlines()[-12:] if not any(f"connection {word}" in line for word in ("complete", "denied", "failed"))))
            if "ADIT_STORMS_TRACE" in os.environ:
                raise
        finally:
            storm.over()
    if as_json:
        json.dump({"storms": storm.rows, "faults": storm.faults}, out, indent=1)
        print(file=out)
    else:
        print(f"\n{'storm':34} {'s':>5} {'made':>6} {'failed':>6}  {'held':6} {'stream':>9} {'iperf3':>16}  events")
        for row in storm.rows:
            whole = f"{row['stream_bytes'] / 1e6:.0f} MB" if row["stream"] == "ok" else "broken"
            iperf = f"{row['iperf3_bytes'] / 1e9:.1f} GB {row['iperf3']}" if row["iperf3"] != "-" else "-"
            print(f"{row['storm']:34} {row['seconds']:>5} {row['connections']:>6} {row['failed']:>6}  {row['held'][:6]:6} {whole:>9} {iperf:>16}  {row['events']}")
    print("sound" if not storm.faults else f"{storm.faults} faults", file=sys.stderr)
    sys.exit(bool(storm.faults))


if __name__ == "__main__":
    main()
