"""From run.json, raw.jsonl and store.jsonl of scripts/bench_mesh.sh to summary.json, table.md and the pictures.

Usage: bench_mesh_report.py DIR
"""
import collections
import json
import pathlib
import statistics
import sys

import bench_data as data
import bench_look as look
import bench_plot

WHILE = {"idle": "while nothing changes", "push": "while all workloads change", "same push": "while all are sent again",
         "deltas": "during 1,000 changes a second"}
NAMES = {
    "ready ms": ("time until ready", "us"), "ready CPU ms": ("CPU until ready", "us"),
    "resident KB": ("resident memory, ready", "KiB"), "peak KB": ("peak memory, ready", "KiB"),
    "resident KB after": ("resident memory, after all of it", "KiB"), "peak KB after": ("peak memory, after all of it", "KiB"),
    "bytes for each workload": ("resident memory for each workload", "B"),
    "push ms": ("all workloads change: until the node has them", "us"), "push CPU ms": ("all workloads change: CPU of the node", "us"),
    "same push ms": ("all are sent again: until the node has them", "us"), "same push CPU ms": ("all are sent again: CPU of the node", "us"),
    "deltas late ms": ("1,000 changes a second: until the last is acknowledged", "us"),
    "delta and stream CPU us": ("1,000 changes a second: CPU for each, stream included", "us"),
}
for key, when in WHILE.items():
    for end, stream in (("", "live stream"), (" beside", "stream that bypasses the node")):
        NAMES[f"{key} p99 us{end}"] = (f"{stream} {when}, p99", "us")
        NAMES[f"{key} stall us{end}"] = (f"{stream} {when}, longest", "us")
    NAMES[f"{key} stall us of its own"] = (f"live stream {when}, longest beyond the stream that bypasses the node", "us")
STORE = {"_ns": "ns", "_us": "µs", "_ms": "ms"}


def read(folder):
    """(proxy, workloads) -> metric -> values, milliseconds as microseconds."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    rows = data.rows(folder / "raw.jsonl")
    empty = {(row["round"], row["proxy"]): row["value"] for row in rows
             if row["workloads"] == 0 and row["metric"] == "resident KB"}
    for row in rows:
        of, metric, value = found[row["proxy"], row["workloads"]], row["metric"], row["value"]
        if metric == "resident KB" and row["workloads"]:
            base = empty[row["round"], row["proxy"]]
            of["bytes for each workload"].append((value - base) * 1024 / row["workloads"])
        of[metric].append(value * 1000 if metric.endswith(" ms") else value)
    return found


def size_table(found, size):
    """Less is better in all of it."""
    proxies = look.in_order({p for p, s in found if s == size})
    others = [p for p in proxies if p != "adit"]
    head = [f"{size:,} workloads, less is better", "adit", *(part for p in others for part in (look.name(p), "adit ÷"))]
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    own = found["adit", size]
    for metric, (text, unit) in NAMES.items():
        if metric not in own:
            continue
        shown, factor = look.scale(unit, statistics.median(own[metric]))
        expected = data.rounds({key: of[metric] for key, of in found.items() if metric in of})
        line = [f"{text}, {shown}", data.cell(own[metric], factor, True, expected)]
        for other in others:
            there = found[other, size][metric]
            line += [data.cell(there, factor, True, expected), "" if "bypasses" in text else data.ratio(own[metric], there)]
        yield "| " + " | ".join(line) + " |"


def store_name(key):
    for end, unit in STORE.items():
        if key.endswith(end):
            return f"{key.removesuffix(end).replace('_', ' ')}, {unit}"
    return key.replace("_", " ")


def store_table(rows):
    sizes = [row["workloads"] for row in rows]
    yield "| the store by itself, less is better | " + " | ".join(f"{size:,} workloads" for size in sizes) + " |"
    yield "|---" + "|---:" * len(sizes) + "|"
    for key in sorted(key for key in rows[0] if key != "workloads"):
        yield f"| {store_name(key)} | " + " | ".join(look.digits(row[key]) for row in rows) + " |"


def targets(found, rows):
    def say(what, value, limit, unit):
        verdict = "met" if value <= limit else "NOT MET"
        return f"- {what}: {look.people(value, unit)}, at most {look.people(limit, unit)}: {verdict}"
    yield say(f"store, for each workload of {rows[-1]['workloads']:,}", rows[-1]["bytes_per_workload"], 400, "B")
    yield say("policy decision, p99 at any size", max(row["decision_p99_ns"] for row in rows), 2000, "ns")
    worst = max((size for proxy, size in found if proxy == "adit"), default=0)
    if worst:
        of = found["adit", worst]
        for what in ("push", "same push", "deltas"):
            beside, own = (look.people(statistics.median(of[f"{what} stall us {end}"]), "us") for end in ("beside", "of its own"))
            yield say(f"live stream {WHILE[what]}, longest, {worst:,} workloads (beyond the stream that bypasses the node "
                      f"{own}; that stream {beside})", statistics.median(of[f"{what} stall us"]), 2000, "us")


def table(folder):
    """The Markdown of table.md."""
    known, found, rows = data.run(folder), read(folder), data.rows(folder / "store.jsonl")
    lines = [f'# {known["title"]}', "", "\n\n".join(data.facts(known)), "", "Medians, in brackets the smallest and the largest round.", ""]
    for size in sorted({s for _, s in found}):
        lines += [*size_table(found, size), ""]
    return "\n".join([*lines, *store_table(rows), "", *targets(found, rows)]) + "\n"


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    results = {f"{proxy} {size}": {m: {"median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
                                   for m, v in of.items()} for (proxy, size), of in read(folder).items()}
    known = {k: v for k, v in data.run(folder).items() if k not in ("title", "notes")}
    (folder / "summary.json").write_text(json.dumps(
        {"machine": known, "results": results, "store": data.rows(folder / "store.jsonl")}, indent=1) + "\n")
    (folder / "table.md").write_text(table(folder))
    bench_plot.draw(folder)
    print(table(folder))
