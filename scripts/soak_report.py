"""From the files of scripts/soak.sh to summary.json, the pictures and a verdict (exit code 1).

Usage: soak_report.py DIR OUT MINUTES EDITS LOAD…
"""
import csv, json, os, pathlib, platform, sys

import bench_look as look
import bench_plot

folder, out, minutes, edits, names = *sys.argv[1:5], sys.argv[5:]
faults, loads = [], {}
for name in names:
    try:
        loads[name] = json.load(open(f"{folder}/{name}.json"))
    except ValueError:
        faults.append(f"{name}: no result: {open(f'{folder}/{name}.err').read()[:300]}")
        continue
    for kind, failed in loads[name]["failures"].items():
        faults.append(f"{name}: {failed['count']} × {kind}, first: {failed['first']}")

rows = [{k: int(v) for k, v in row.items()} for row in csv.DictReader(open(f"{out}/samples.csv"))]
# Warm after a fifth, and at the end of the load; the last row is after it.
fifth = len(rows) // 5
early, late = rows[fifth:2 * fifth] or rows[:1], rows[-1 - max(fifth, 1):-1]
growth = {}
for column in rows[0]:
    if column != "seconds":
        before, after = (sum(r[column] for r in part) / len(part) for part in (early, late))
        growth[column] = {"early": before, "late": after, "most": max(r[column] for r in rows), "after": rows[-1][column]}
        # Memory may breathe by a megabyte, descriptors by those of a renewal.
        if after > before * 1.2 + (1024 if "rss" in column else 20):
            faults.append(f"{column} grew from {before:.0f} to {after:.0f}")


def lines(name):
    return [line.strip() for side in (1, 2) for line in open(f"{folder}/{name}{side}")]


summary = {
    "minutes": float(minutes), "cores": os.cpu_count(), "kernel": platform.release(),
    "policy_edits": int(edits), "svids_issued": [int(n) for n in lines("renewals")],
    "close_reasons": lines("reasons"), "warnings": lines("warnings"),
    "growth": growth, "faults": faults, "loads": loads,
}
json.dump(summary, open(f"{out}/summary.json", "w"), indent=1)
bench_plot.draw(pathlib.Path(out))
for name, load in loads.items():
    print(f'{name}: {(load["bytes_sent"] + load["bytes_received"]) / 1e9:.1f} GB, {load["operations"]:,} operations')
for column, seen in growth.items():
    side, kind = column.split("_", 1)
    shown = {k: look.people(v, "KiB") if "rss" in kind else f"{v:.0f}" for k, v in seen.items()}
    what = "resident memory" if "rss" in kind else "open file descriptors"
    print(f'{what}, {side}: early {shown["early"]}, late {shown["late"]}, at most {shown["most"]}, after the load {shown["after"]}')
print(f'{edits} policy edits, SVIDs issued {summary["svids_issued"]}, ends: {"; ".join(summary["close_reasons"])}')
for fault in faults:
    print(f"FAULT {fault}")
print("sound" if not faults else f"{len(faults)} faults")
sys.exit(bool(faults))
