"""From a folder of a kept run (run.json, raw.jsonl) to plot.svg and plot-dark.svg.

Usage: bench_plot.py DIR
"""
import collections
import csv
import pathlib
import sys

import bench_data as data
import bench_look as look
from bench_data import LESS, MORE

SPREAD = "Bars and dots are medians; a thin line goes from the smallest to the largest round"
# Title of a panel, and its metric; several metrics are quantiles of one latency.
PODS = [
    ("Requests per second, 64 connections", "requests/s"), ("CPU for a request", "CPU us/request"),
    ("New connections per second", "new conn/s"), ("CPU for a new connection", "CPU us/conn"),
    ("Throughput, one connection", "bulk1 Gb/s"), ("CPU for a gigabyte", "CPU s/GB"),
    ("Round trip at 5,000 messages/s", {"p50": "5000/s p50 us", "p99": "5000/s p99 us"}),
    ("Small messages beside bulk", {"p99": "beside bulk p99 us"}),
    ("Round trip, one connection", {"p50": "RTT p50 us", "p99": "RTT p99 us"}),
    ("Memory for an idle connection, both proxies", "idle KB/conn"),
    ("Full handshakes per second", "handshakes/s"), ("CPU for a full handshake", "CPU us/handshake"),
]
SHORT = PODS[0:2] + PODS[6:7] + PODS[5:6]
SERVICE = [
    ("Full handshakes per second", "handshakes_per_second"), ("CPU for a full handshake", "cpu_us_per_handshake"),
    ("Throughput, writes of 16 KiB", "gbit_16K"), ("CPU for a gigabyte, writes of 16 KiB", "cpu_s_per_gb_16K"),
    ("Throughput, writes of 1 KiB", "gbit_1K"), ("CPU for a gigabyte, writes of 1 KiB", "cpu_s_per_gb_1K"),
    ("New connection, 100 per second",
     {"p50": "new_connection_p50_us", "p99": "new_connection_p99_us"}),
    ("Memory for an idle connection", "kb_per_idle_connection"),
]


def panels(found, chosen):
    for title, metric in chosen:
        if isinstance(metric, dict):
            present = {q: m for q, m in metric.items() if m in found}
            proxies = look.in_order({p for m in present.values() for p in found[m]})
            if proxies:
                rows = [(p, [found[m].get(p, []) for m in present.values()]) for p in proxies]
                yield look.Dots(title, LESS, rows, list(present))
        elif metric in found:
            known = data.METRICS[metric]
            yield look.Bars(title, known.better, [(p, found[metric][p]) for p in look.in_order(found[metric])], known.unit)


# Of scripts/bench_mesh.sh: title, metric, unit; or a latency's quantiles, with the stream beside the node.
MESH = [
    ("Time until ready", "ready ms", "us"), ("CPU until ready", "ready CPU ms", "us"),
    ("Resident memory, ready", "resident KB", "KiB"), ("Peak memory, after all of it", "peak KB after", "KiB"),
    ("All workloads change: until the node has them", "push ms", "us"),
    ("All workloads change: CPU of the node", "push CPU ms", "us"),
    ("A live stream while all workloads change", {"p99": "push p99 us", "longest": "push stall us"}),
    ("A live stream during 1,000 changes a second", {"p99": "deltas p99 us", "longest": "deltas stall us"}),
]


def mesh_panels(found, sizes):
    """`found`: (proxy, workloads) -> metric -> values."""
    proxies = look.in_order({p for p, _ in found})
    for title, metric, *unit in MESH:
        rows = []
        for size in sizes:
            rows.append((f"{size:,} workloads", None))
            for p in proxies:
                of = found[p, size]
                if unit:
                    rows.append((p, [v * (1000 if " ms" in metric else 1) for v in of[metric]]))
                    continue
                rows.append((p, [of[m] for m in metric.values()]))
                rows.append((f"none-beside {look.name(p)}", [of[m + " beside"] for m in metric.values()]))
        yield look.Bars(title, LESS, rows, unit[0]) if unit else look.Dots(title, LESS, rows, list(metric))


def mesh_values(folder):
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in data.rows(folder / "raw.jsonl"):
        found[row["proxy"], row["workloads"]][row["metric"]].append(row["value"])
    return found


def draw_mesh(folder, known):
    found = mesh_values(folder)
    page = look.Page(known["title"], data.facts(known), [SPREAD + ".", *known.get("notes", [])])
    for panel in mesh_panels(found, sorted({size for _, size in found if size})):
        page.add(panel)
    keep(folder, "plot", page)


def draw_soak(folder, known):
    samples = [{k: int(v) for k, v in row.items()} for row in csv.DictReader((folder / "samples.csv").open())]
    page = look.Page(known["title"], data.facts(known), known.get("notes", []), columns=1)
    for title, column, factor, unit in (("Resident memory", "rss_kb", 1024, "MiB"), ("Open file descriptors", "fds", 1, "")):
        curves = [(side, "adit", side == "callee",
                   [(row["seconds"] / 60, row[f"{side}_{column}"] / factor) for row in samples]) for side in ("caller", "callee")]
        page.add(look.Lines(title, f"{unit + '; ' if unit else ''}flat is better; the last sample is after the load",
                            curves, unit, samples[-1]["seconds"] / 60))
    keep(folder, "plot", page)


def keep(folder, stem, page):
    for suffix, text in zip(("", "-dark"), page.draw()):
        (folder / f"{stem}{suffix}.svg").write_text(text)


def draw(folder):
    known = data.run(folder)
    if known["what"] in ("mesh", "soak"):
        return {"mesh": draw_mesh, "soak": draw_soak}[known["what"]](folder, known)
    found = data.values(folder)
    notes = [f"{SPREAD}, with an arrow beyond the picture.", *known.get("notes", [])]
    for stem, chosen in (("plot", PODS if known["what"] == "pods" else SERVICE),
                         *([("short", SHORT)] if known.get("short") else [])):
        page = look.Page(known["title"], data.facts(known), notes if stem == "plot" else notes[:1] + known["short"])
        for panel in panels(found, chosen):
            page.add(panel)
        keep(folder, stem, page)


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1]))
