"""From the lines of scripts/identity_bench.sh to a table and a verdict (exit code 1).

Usage: identity_report.py FILE
"""
import pathlib
import statistics
import sys

import bench_data as data
import bench_look as look


def median(lines, case, get, **be):
    return statistics.median(get(line) for line in lines if line["case"] == case and all(line[k] == v for k, v in be.items()))


def each(lines, case):
    """KiB for each identity more: the median over the rounds."""
    of = [line for line in lines if line["case"] == case]
    few, many = (pick(line["identities"] for line in of) for pick in (min, max))
    pairs = zip(*([line["rss_kb"] - line.get("before_kb", 0) for line in of if line["identities"] == n] for n in (few, many)))
    return statistics.median((after - before) / (many - few) for before, after in pairs)


def ms(*values):
    """Milliseconds for people, in the unit of the last."""
    shown, factor = look.scale("us", values[-1] * 1000)
    return " / ".join(look.digits(value * 1000 / factor) for value in values) + f" {shown}"


def rows(lines):
    """What is measured, and its figure."""
    def spread(case, get):
        """The smallest and the largest round, in ms for people."""
        of = [get(line) for line in lines if line["case"] == case]
        return f" ({ms(min(of))}–{ms(max(of))})" if len(of) > 1 else ""

    def last(line):
        return line["ms"]["last"]

    def took(case):
        return ms(*(median(lines, case, lambda line, q=q: line["ms"][q]) for q in ("p50", "p99", "last"))) + spread(case, last)

    pods = lines[0]["pods"]
    shared, alone = (median(lines, case, lambda line: line["ca_cpu_us_each"]) for case in ("node", "pods"))
    yield "CPU of `adit ca serve` for a request of a node proxy", look.people(shared, "us")
    yield "the same with a connection for each request", look.people(alone, "us")
    yield f"{pods:,} pods at once, each with its own connection: p50 / p99 / last", took("pods")
    yield "the same through one node proxy: p50 / p99 / last", took("node")
    yield "ten asked for meanwhile: p50 / p99", ms(
        *(median(lines, "node", lambda line, q=q: line["on_demand"]["ms"][q]) for q in ("p50", "p99"))
    ) + spread("node", lambda line: line["on_demand"]["ms"]["p99"])
    yield f"`adit run`, from its start until it holds all {pods:,}", ms(median(lines, "adit run", last)) + spread("adit run", last)
    run, store = each(lines, "memory, adit run"), each(lines, "memory, store alone")
    yield "memory for each identity, `adit run` / its store alone", f"{look.digits(run)} / {look.digits(store)} KiB"


def guide(folder):
    """The table of the performance guide, from a kept run beside rcgen and SPIRE."""
    cores = {line["case"]: line for line in data.rows(folder / "cores.jsonl")}
    spire = statistics.median(line["cpu_us_each"] for line in data.rows(folder / "spire.jsonl") if line["at_once"] == 8)
    own, bare = (look.people(cores[f"one core: {who}, key and certificate"]["cpu_us"], "us") for who in ("adit", "rcgen"))
    first, *others = rows(data.rows(folder / "processes.jsonl"))
    yield "| less is better | adit | compared with |"
    yield "|---|---:|---|"
    yield f"| CPU for an SVID of the embedded CA | {own} | bare rcgen, same template, nothing on record: {bare} |"
    yield f"| {first[0]} | {first[1]} | SPIRE 1.13.3 server, MintX509SVID, 8 at once: {look.people(spire, 'us')} |"
    for what, figure in others:
        yield f"| {what} | {figure} | |"
    for what, case in (("CPU for a handshake with 1,001 trust domains", ("1,001 trust domains", "1 trust domain")),
                       ("the same, after the set of bundles has changed", ("1,001, changed", "1, changed"))):
        many, one = (look.people(cores[f"handshake: {which}"]["cpu_us"], "us") for which in case)
        yield f"| {what} | {many} | with one: {one} |"


if __name__ == "__main__":
    lines = data.rows(pathlib.Path(sys.argv[1]))
    rounds = sum(line["case"] == "node" for line in lines)
    print(f"Medians of {rounds} rounds; less is better.\n\n| what | adit |\n|---|---:|" if rounds > 1 else
          "One round; less is better.\n\n| what | adit |\n|---|---:|")
    for what, figure in rows(lines):
        print(f"| {what} | {figure} |")
    failed = sum(line.get("failed", 0) for line in lines)
    if failed:
        sys.exit(f"{failed} pods got nothing")
    late = [line for line in lines if line["case"] == "node" and line["on_demand"]["ms"]["last"] > line["ms"]["p50"]]
    if late:
        sys.exit(f"pods that were asked for on demand waited for the others: {late}")
