"""From run.json and raw.jsonl to summary.json, table.md and the pictures. Usage: bench_report.py DIR"""
import json
import pathlib
import re
import statistics
import sys

import bench_data as data
import bench_look as look
import bench_plot


def table(folder):
    """The Markdown of table.md."""
    known, found = data.run(folder), data.values(folder)
    metrics = data.PODS if known["what"] == "pods" else data.SERVICE
    lines = [f'# {known["title"]}', "", "\n\n".join(data.facts(known)), "", "Medians, in brackets the smallest and the largest round.", ""]
    for better in (data.MORE, data.LESS):
        lines += [*data.table(found, metrics, better), ""]
    lost = {}
    for row in data.rows(folder / "raw.jsonl"):
        if "failures" in row:
            lost[row["proxy"]] = lost.get(row["proxy"], 0) + row["failures"]
    if any(re.search(r"\[\d+ of \d+\]", line) for line in lines):
        lines += ["[n of m]: a figure of so many of the rounds; in the others no message came back in time.", ""]
    if lost:
        lines += ["Failed connections: " + ", ".join(f"{look.name(p)} {lost[p]}" for p in look.in_order(lost)) + ".", ""]
    return "\n".join(lines + known.get("notes", [])).rstrip() + "\n"


def summary(folder):
    known, found = data.run(folder), data.values(folder)
    results = {}
    for metric, of in found.items():
        for proxy, v in of.items():
            results.setdefault(proxy, {})[metric] = {
                "median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
    return {"machine": {k: v for k, v in known.items() if k not in ("title", "notes")}, "results": results}


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    (folder / "summary.json").write_text(json.dumps(summary(folder), indent=1) + "\n")
    (folder / "table.md").write_text(table(folder))
    bench_plot.draw(folder)
    print(table(folder))
