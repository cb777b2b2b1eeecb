"""From raw.jsonl to summary.json, table.md and (bench_plot.py) plot.svg. Usage: bench_report.py DIR ROUNDS SECONDS"""
import collections, datetime, json, os, platform, statistics, subprocess, sys

folder, rounds, seconds = sys.argv[1:4]
values, proxies, metrics = collections.defaultdict(list), [], []
for line in open(f"{folder}/raw.jsonl"):
    row = json.loads(line)
    for name, known in ((row["proxy"], proxies), (row["metric"], metrics)):
        if name not in known:
            known.append(name)
    if row["value"] is not None:
        values[row["proxy"], row["metric"]].append(row["value"])
summary = {
    p: {m: {"median": statistics.median(v), "min": min(v), "max": max(v), "n": len(v)}
        for m in metrics if (v := values.get((p, m)))} for p in proxies
}
machine = {
    "date": datetime.date.today().isoformat(), "kernel": platform.release(), "cores": os.cpu_count(),
    "rounds": int(rounds), "seconds": float(seconds),
}
json.dump({"machine": machine, "results": summary}, open(f"{folder}/summary.json", "w"), indent=1)


def cell(proxy, metric):
    got = summary[proxy].get(metric)
    if not got:
        return "–"
    text = f'{got["median"]:.4g} ({got["min"]:.4g}–{got["max"]:.4g})'
    for name, shown in (("envoy", "Envoy"), ("ztunnel", "ztunnel"), ("haproxy", "HAProxy")):
        peer = summary.get(name, {}).get(metric)
        if proxy == "adit" and peer and peer["median"]:
            text += f' · {got["median"] / peer["median"]:.2f}× {shown}'
    return text


lines = [f'{machine["date"]}, {machine["cores"]} cores, Linux {machine["kernel"]}, {rounds} rounds of {seconds} s, '
         "medians (min–max).", "", "| metric | " + " | ".join(proxies) + " |", "|---" * (len(proxies) + 1) + "|"]
lines += [f"| {m} | " + " | ".join(cell(p, m) for p in proxies) + " |" for m in metrics]
text = "\n".join(lines) + "\n"
open(f"{folder}/table.md", "w").write(text)
print(text)
subprocess.run([sys.executable, f"{os.path.dirname(os.path.abspath(__file__))}/bench_plot.py", folder,
                "adit between two pods"], check=False)
