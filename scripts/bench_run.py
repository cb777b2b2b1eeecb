"""Writes run.json, which says of a run what its picture and its tables say: machine, date, versions.

Usage: bench_run.py DIR WHAT ROUNDS SECONDS TITLE [PROXY[=PROGRAM] …]   (WHAT: pods, service, mesh, soak)
"""
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

# How a program says its version, and what of that is it. adit also says what its checkout was.
ASK = {
    "adit": ("--version", r"adit ([0-9.]+)"), "haproxy": ("-v", r"version ([0-9.]+)"),
    "nginx": ("-v", r"nginx/([0-9.]+)"), "stunnel": ("-version", r"stunnel ([0-9.]+)"),
    "envoy": ("--version", r"/([0-9]+\.[0-9.]+)"), "ztunnel": ("version", r'GitRevision:"([0-9a-f]{8})'),
    "ghostunnel": ("--version", r"([0-9]+\.[0-9.]+)"),
}
NOTES = {
    "pods": ["A proxy in each pod, with load, proxies and services on the same cores. adit: mutual TLS, a policy of 100 "
             "rules, access log and metrics. Envoy: mutual TLS, HBONE. ztunnel: mutual TLS, no policy. HAProxy: plaintext."],
    "service": ["Mutual TLS without resumption, the same certificates for all, with load and service on the same cores."],
    "mesh": ["One node beside a control plane that sends all workloads, with a tenth as many services and policies. "
             "“beside”: at the same time, a stream that bypasses the node; its delays are the machine's own."],
    "soak": ["Solid: the caller's node, dashed: the callee's. Bulk both ways, messages, new connections, idle ones and slow "
             "readers at once; an SVID lives 60 s, policies change every 5 s."],
}


def version(proxy, program):
    """What the program says; nothing where it does not say it in a way that is known here."""
    asked = ASK.get(proxy.split("-")[0])
    if not asked:
        return None
    try:
        done = subprocess.run([program, asked[0]], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(asked[1], done.stdout + done.stderr)
    return found and found[1]


def commit():
    """The commit of this checkout, with `-dirty` where files differ from it; adit is built from it."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--match="], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def processor():
    found = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return found and " ".join(found[1].split())


if __name__ == "__main__":
    folder, what, rounds, seconds, title, *proxies = sys.argv[1:]
    versions = {}
    for proxy, _, program in (part.partition("=") for part in proxies):
        if proxy != "none":
            versions[proxy] = version(proxy, program or proxy)
    built = commit()
    # adit-sockmap and the like are settings of it; adit-NAME with ADIT_BINARY_NAME is another build.
    if built and "adit" in versions and not os.environ.get("ADIT_BINARY"):
        versions["adit"] = " ".join(part for part in (versions["adit"], f"({built})") if part)
    known = {
        "what": what, "title": title, "date": datetime.date.today().isoformat(), "cores": os.cpu_count(),
        "cpu": processor(), "kernel": platform.release(), "rounds": int(rounds) or None,
        "seconds": float(seconds) or None, "versions": versions, "notes": NOTES[what],
    }
    (pathlib.Path(folder) / "run.json").write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
