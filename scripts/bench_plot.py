"""From the raw.jsonl of a bench to plot.svg: one panel for each metric, one bar for each proxy.

Usage: bench_plot.py DIR TITLE [MACHINE]. A bar is the median, the whisker the smallest and the largest
round. MACHINE (date, cores, kernel) is read from DIR/summary.json where it is not given.
"""
import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

# A proxy keeps its colour in every plot.
COLOURS = {"none": "#9e9e9e", "haproxy": "#e69f00", "envoy": "#56b4e9", "ztunnel": "#cc79a7", "nginx": "#009e73",
           "stunnel": "#d55e00", "ghostunnel": "#8c6bb1", "adit": "#0b3d91"}
NAMES = {"kb_per_idle_connection": "idle KB/conn", "handshakes_per_second": "handshakes/s",
         "cpu_us_per_handshake": "CPU us/handshake", "new_connection_p50_us": "new conn p50 us",
         "new_connection_p99_us": "new conn p99 us"}
COLUMNS, WIDTH, HEIGHT = 4, 300, 220


def shown(metric):
    if metric in NAMES:
        return NAMES[metric]
    for prefix, text in (("gbit_", "Gb/s, writes of "), ("cpu_s_per_gb_", "CPU s/GB, writes of ")):
        if metric.startswith(prefix):
            return text + metric.removeprefix(prefix)
    return metric


def better(metric):
    return "more is better" if metric.endswith("/s") or "b/s" in metric else "less is better"


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def read(folder):
    """Metric -> proxy -> values; a line holds one value, or all of a round."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in (folder / "raw.jsonl").read_text().splitlines():
        row = json.loads(line)
        pairs = [(row["metric"], row["value"])] if "metric" in row else [
            (k, v) for k, v in row.items() if k not in ("round", "proxy", "failures")]
        for metric, value in pairs:
            if value is not None:
                found[shown(metric)][row["proxy"]].append(value)
    return found


def panel(metric, of, data):
    rows = []
    for n, proxy in enumerate(p for p in COLOURS if p in of):
        values = of[proxy]
        median = statistics.median(values)
        rows.append(f'{n} {median} {min(values)} {max(values)} "{proxy}" {int(COLOURS[proxy][1:], 16)} "{number(median)}"')
    data.write_text("\n".join(rows) + "\n")
    top = max(max(v) for v in of.values()) * 1.25 or 1
    return (f'set title "{metric} ({better(metric)})"; set xrange [-0.6:{len(rows) - 0.4}]; set yrange [0:{top}]\n'
            f'plot "{data}" using 1:2:6:xtic(5) with boxes lc rgb variable notitle, '
            f'"{data}" using 1:3:(0):($4-$3) with vectors heads size 0.08,90 lc rgb "#333333" notitle, '
            f'"{data}" using 1:4:7 with labels offset 0,0.7 font ",9" notitle\n')


folder, title = pathlib.Path(sys.argv[1]), sys.argv[2]
metrics = {m: of for m, of in read(folder).items() if any(any(v) for v in of.values())}
if len(sys.argv) > 3:
    machine = sys.argv[3]
else:
    known = json.loads((folder / "summary.json").read_text())["machine"]
    machine = f'{known["date"]}, {known["cores"]} cores, Linux {known["kernel"]}, {known["rounds"]} rounds'
rows = -(-len(metrics) // COLUMNS)
with tempfile.TemporaryDirectory() as temp:
    script = (
        f'set terminal svg noenhanced background rgb "white" size {COLUMNS * WIDTH},{rows * HEIGHT + 50} font "sans,10"\n'
        f'set output "{folder}/plot.svg"\nset boxwidth 0.7\nset style fill solid 0.85 noborder\n'
        'set xtics nomirror rotate by -30 font ",9"\nset ytics nomirror font ",8"\nset border 3\nset grid ytics lc rgb "#dddddd"\n'
        f'set multiplot layout {rows},{COLUMNS} title "{title}: {machine}; medians, whiskers: smallest and largest round"\n')
    for n, (metric, of) in enumerate(metrics.items()):
        script += panel(metric, of, pathlib.Path(temp) / f"{n}.dat")
    script += "unset multiplot\n"
    done = subprocess.run(["gnuplot", "-"], input=script, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
if done.returncode != 0:
    print("no plot: gnuplot failed", file=sys.stderr)
