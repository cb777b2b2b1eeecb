"""From raw.jsonl and store.jsonl of scripts/bench_mesh.sh to summary.json, table.md and plot.svg.

Usage: bench_mesh_report.py DIR ROUNDS SECONDS
"""
import collections
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

folder, rounds, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
COLOURS = {"adit": "#0b3d91", "ztunnel": "#cc79a7"}  # as in every plot
OTHERS = ["#e69f00", "#56b4e9", "#009e73"]
# Title and unit of a panel, and its metric.
PANELS = [("time to ready, ms", "ready ms"), ("resident, MB", "resident MB"), ("peak, MB", "peak MB"),
          ("resident bytes for each workload", "bytes for each workload"),
          ("longest stall, us: all workloads change", "push stall us"),
          ("longest stall, us: all are sent again", "same push stall us"),
          ("longest stall, us: 1,000 changes a second", "deltas stall us"),
          ("CPU ms until ready", "ready CPU ms")]


def lines(name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def read():
    """(proxy, workloads) -> metric -> values."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    empty = {(row["round"], row["proxy"]): row["value"] for row in lines("raw.jsonl")
             if row["workloads"] == 0 and row["metric"] == "resident KB"}
    for row in lines("raw.jsonl"):
        of, metric, value = found[row["proxy"], row["workloads"]], row["metric"], row["value"]
        if metric == "resident KB" and row["workloads"]:
            base = empty[row["round"], row["proxy"]]
            of["bytes for each workload"].append((value - base) * 1024 / row["workloads"])
        if " KB" in metric:
            metric, value = metric.replace(" KB", " MB"), value / 1024
        of[metric].append(value)
    return found


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(values):
    if not values:
        return "–"
    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}–{number(max(values))})"


def table(found):
    columns = list(found)
    metrics = list(dict.fromkeys(m for of in found.values() for m in of))
    yield "| figure | " + " | ".join(f"{proxy} {size:,}" for proxy, size in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for metric in metrics:
        yield f"| {metric} | " + " | ".join(cell(found[c].get(metric, [])) for c in columns) + " |"


def store_table(rows):
    sizes = [row["workloads"] for row in rows]
    yield "| the store by itself | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for name in sorted(name for name in rows[0] if name != "workloads"):
        yield f"| {name} | " + " | ".join(number(row[name]) for row in rows) + " |"


def targets(found, rows):
    def say(what, value, limit):
        return f"- {what}: {number(value)}, at most {number(limit)}: {'met' if value <= limit else 'NOT MET'}"
    worst = max((size for proxy, size in found if proxy == "adit"), default=0)
    yield say(f"store, bytes for each workload of {rows[-1]['workloads']:,}", rows[-1]["bytes_per_workload"], 400)
    yield say("policy decision, p99 ns at any size", max(row["decision_p99_ns"] for row in rows), 2000)
    if worst:
        of = found["adit", worst]
        for what in ("push", "same push", "deltas"):
            beside = statistics.median(of[f"{what} stall us beside"])
            own = statistics.median(of[f"{what} stall us of its own"])
            yield say(f"longest stall, {what}, {worst:,} workloads, us (of its own {number(own)}; "
                      f"a stream beside the node {number(beside)})", statistics.median(of[f"{what} stall us"]), 2000)


def plot(found, title):
    proxies = sorted({proxy for proxy, size in found}, key=lambda p: (p != "adit", p))
    colours = {p: COLOURS.get(p) or OTHERS[n % len(OTHERS)] for n, p in enumerate(proxies)}
    with tempfile.TemporaryDirectory() as temp:
        script = ('set terminal svg noenhanced background rgb "white" size 1240,520 font "sans,10"\n'
                  f'set output "{folder}/plot.svg"\nset logscale x\nset format x "%.0s%c"\nset border 3\n'
                  'set xtics nomirror font ",9"\nset ytics nomirror font ",8"\nset grid ytics lc rgb "#dddddd"\n'
                  f'set key top left font ",9"\nset multiplot layout 2,4 title "{title}"\n')
        for n, (text, metric) in enumerate(PANELS):
            curves, most = [], 0
            for proxy in proxies:
                for beside, dash in (("", 1), (" beside", 3)):
                    points = [(size, statistics.median(of[metric + beside]), min(of[metric + beside]), max(of[metric + beside]))
                              for (p, size), of in sorted(found.items()) if p == proxy and size and metric + beside in of]
                    if not points:
                        continue
                    data = pathlib.Path(temp) / f"{n}-{proxy}{bool(beside)}.dat"
                    data.write_text("".join("%d %f %f %f\n" % point for point in points))
                    most = max([most] + [point[3] for point in points])
                    name = proxy + (", beside it" if beside else "")
                    curves.append(f'"{data}" using 1:2:3:4 with yerrorlines pt 7 ps 0.5 dt {dash} lc rgb "{colours[proxy]}" title "{name}"')
            if curves:
                script += f'set title "{text}"; set yrange [0:{most * 1.7 or 1}]\nplot {", ".join(curves)}\n'
        done = subprocess.run(["gnuplot", "-"], input=script + "unset multiplot\n", text=True,
                              env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        print("no plot: gnuplot failed", file=sys.stderr)


found, rows = read(), lines("store.jsonl")
machine = {"date": datetime.date.today().isoformat(), "kernel": platform.release(), "cores": os.cpu_count(),
           "rounds": int(rounds), "seconds": float(seconds)}
summary = {f"{proxy} {size}": {m: {"median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
                               for m, v in of.items()} for (proxy, size), of in found.items()}
(folder / "summary.json").write_text(json.dumps({"machine": machine, "results": summary, "store": rows}, indent=1))
where = f'{machine["date"]}, {machine["cores"]} cores, Linux {machine["kernel"]}, {rounds} rounds'
text = "\n".join([f"{where}, medians (min–max); streams watched for {seconds} s.", "", *table(found), "",
                  *store_table(rows), "", *targets(found, rows)]) + "\n"
(folder / "table.md").write_text(text)
print(text)
plot(found, f"an ambient node and a mesh of many workloads: {where}; medians, smallest and largest")
