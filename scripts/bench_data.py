"""What a kept run has: what is known of it (run.json), its values (raw.jsonl), and what they are called."""
import collections
import dataclasses
import json
import statistics

import bench_look as look

MORE, LESS = "more is better", "less is better"


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a figure is called, in which unit it is kept, and which way is better."""
    text: str
    unit: str
    better: str


# Of scripts/bench.sh: two pods, a proxy at each of them.
PODS = {
    "requests/s": Metric("requests on 64 connections", "/s", MORE),
    "new conn/s": Metric("new connections", "/s", MORE),
    "handshakes/s": Metric("full handshakes, one after the other", "/s", MORE),
    "bulk1 Gb/s": Metric("throughput to the callee, 1 connection", "Gb/s", MORE),
    "bulk4 Gb/s": Metric("throughput to the callee, 4 connections", "Gb/s", MORE),
    "reverse1 Gb/s": Metric("throughput to the caller, 1 connection", "Gb/s", MORE),
    "reverse4 Gb/s": Metric("throughput to the caller, 4 connections", "Gb/s", MORE),
    "CPU us/request": Metric("CPU for a request", "us", LESS),
    "CPU us/conn": Metric("CPU for a new connection", "us", LESS),
    "CPU us/handshake": Metric("CPU for a full handshake", "us", LESS),
    "CPU s/GB": Metric("CPU for a gigabyte", "s", LESS),
    "RTT p50 us": Metric("round trip on 1 connection, p50", "us", LESS),
    "RTT p99 us": Metric("round trip on 1 connection, p99", "us", LESS),
    "5000/s p50 us": Metric("round trip at 5,000 messages/s, p50", "us", LESS),
    "5000/s p99 us": Metric("round trip at 5,000 messages/s, p99", "us", LESS),
    "beside bulk p99 us": Metric("round trip of small messages beside bulk, p99", "us", LESS),
    "idle KB/conn": Metric("memory for an idle connection, both proxies", "KiB", LESS),
}
# Of scripts/bench_standalone.sh: a TLS server in front of one service.
SERVICE = {
    "handshakes_per_second": Metric("full handshakes on 8 connections", "/s", MORE),
    "gbit_1K": Metric("throughput, writes of 1 KiB", "Gb/s", MORE),
    "gbit_16K": Metric("throughput, writes of 16 KiB", "Gb/s", MORE),
    "gbit_256K": Metric("throughput, writes of 256 KiB", "Gb/s", MORE),
    "cpu_us_per_handshake": Metric("CPU for a full handshake", "us", LESS),
    "cpu_s_per_gb_1K": Metric("CPU for a gigabyte, writes of 1 KiB", "s", LESS),
    "cpu_s_per_gb_16K": Metric("CPU for a gigabyte, writes of 16 KiB", "s", LESS),
    "cpu_s_per_gb_256K": Metric("CPU for a gigabyte, writes of 256 KiB", "s", LESS),
    "new_connection_p50_us": Metric("new connection at 100/s, p50", "us", LESS),
    "new_connection_p99_us": Metric("new connection at 100/s, p99", "us", LESS),
    "kb_per_idle_connection": Metric("memory for an idle connection", "KiB", LESS),
}
METRICS = {**PODS, **SERVICE}


def run(folder):
    """run.json: what is known of a run; null is what was not recorded."""
    return json.loads((folder / "run.json").read_text())


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def values(folder):
    """Metric -> proxy -> values; a line of raw.jsonl holds one value, or all of a round."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows(folder / "raw.jsonl"):
        pairs = [(row["metric"], row["value"])] if "metric" in row else [
            (k, v) for k, v in row.items() if k not in ("round", "proxy", "failures")]
        for metric, value in pairs:
            if value is not None:
                found[metric][row["proxy"]].append(value)
    # No proxy takes no CPU; such a row of zeros is not a figure.
    return {m: {p: v for p, v in of.items() if any(v)} for m, of in found.items() if any(map(any, of.values()))}


def facts(known):
    """The lines under a title (in Markdown, paragraphs): machine, date, length, versions, and what was not recorded."""
    missing = [text for key, text in (("cpu", "CPU model"), ("kernel", "kernel")) if not known.get(key)]
    machine = [known["date"], f'{known["cores"]} cores', known.get("cpu"),
               known.get("kernel") and f'Linux {known["kernel"]}', known.get("rounds") and
               (f'{known["rounds"]} interleaved rounds' if known["rounds"] > 1 else "1 round") + (f' of {known["seconds"]:g} s' if known.get("seconds") else "")]
    yield " · ".join(part for part in machine if part)
    of = known.get("versions", {})
    versions = {look.name(p): of[p] for p in look.in_order(of)}
    nameless = [shown for shown, version in versions.items() if not version]
    text = ", ".join(f"{shown} {version}" for shown, version in versions.items() if version)
    if nameless:
        missing.append("versions of " + ", ".join(nameless))
    if missing:
        text += ("; " if text else "") + "not recorded: " + ", ".join(missing)
    if text:
        yield text


def rounds(of):
    """The rounds of a run: as many values as any proxy has."""
    return max((len(v) for v in of.values()), default=0)


def cell(of, factor, spread=True, expected=0):
    """`expected`: the rounds of the run; a figure of fewer says so."""
    if not of:
        return "–"
    text = look.digits(statistics.median(of) / factor) + look.of_rounds(of, expected)
    if spread and len(of) > 1:
        text += f" ({look.digits(min(of) / factor)}–{look.digits(max(of) / factor)})"
    return text


def ratio(own, other):
    """The median of adit's divided by that of another; nothing where one is not measurable."""
    if not own or not other or statistics.median(other) <= 0 or statistics.median(own) <= 0:
        return "–"
    return f"{statistics.median(own) / statistics.median(other):.2f}"


def table(found, metrics, better, spread=True, proxies=None):
    """A Markdown table of the metrics for which `better` holds: adit, then each other with its ratio."""
    chosen = [m for m in metrics if m in found and metrics[m].better == better]
    if not chosen:
        return
    present = look.in_order({p for m in chosen for p in found[m]})
    others = [p for p in proxies or present if p != "adit" and p in present]
    head, line = [better, "adit"], []
    for other in others:
        head += [look.name(other)] + (["adit ÷"] if other != "none" else [])
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for metric in chosen:
        of, known = found[metric], metrics[metric]
        own = of.get("adit")
        shown, factor = look.scale(known.unit, statistics.median(own or next(iter(of.values()))))
        expected = rounds(of)
        line = [f"{known.text}, {shown}", cell(own, factor, spread, expected)]
        for other in others:
            there = of.get(other)
            if there and statistics.median(there) <= 0:
                there = None
            line += [cell(there, factor, spread, expected)] + ([ratio(own, there)] if other != "none" else [])
        yield "| " + " | ".join(line) + " |"


def sizes_table(found, names, worst=()):
    """A Markdown table of adit / the other at each size; `names`: metric -> text and unit. Metrics of
    `worst` have the largest round in brackets."""
    sizes = sorted({size for _, size in found if size})
    other = next(p for p, _ in found if p != "adit")
    yield f"| less is better, adit / {look.name(other)} | " + " | ".join(f"{size:,} workloads" for size in sizes) + " |"
    yield "|---" + "|---:" * len(sizes) + "|"
    for metric, (text, unit) in names.items():
        shown, factor = look.scale(unit, max(statistics.median(found["adit", size][metric]) for size in sizes))
        expected = rounds({key: of[metric] for key, of in found.items()})
        cells = [" / ".join(worst_of(found[proxy, size][metric], factor, expected, metric in worst) for proxy in ("adit", other))
                 for size in sizes]
        text += f", {shown}" + (": median (largest)" if metric in worst else "")
        yield f"| {text} | " + " | ".join(cells) + " |"


def worst_of(of, factor, expected, wanted):
    return cell(of, factor, False, expected) + (f" ({look.digits(max(of) / factor)})" if wanted else "")
