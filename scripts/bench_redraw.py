#!/usr/bin/env python3
"""Draws the pictures and tables of all kept runs again, from what each folder has, and those of the guide.

Usage: bench_redraw.py [--check]   (--check changes nothing: exit code 1 if one is not as kept)
"""
import pathlib
import shutil
import sys
import tempfile
import xml.etree.ElementTree

import bench_data
import bench_mesh_report
import bench_plot
import bench_report
import identity_report

ROOT = pathlib.Path(__file__).resolve().parent.parent
GUIDE = ROOT / "src/guide/performance.md"
LARGEST = 60 * 1024
MADE = ("*.svg", "table.md")
TABLES = {"pods": bench_report.table, "service": bench_report.table, "mesh": bench_mesh_report.table}


def kept():
    """The folders of benches/results that say in run.json what they are."""
    return sorted(path.parent for path in (ROOT / "benches/results").rglob("run.json"))


def make(folder):
    bench_plot.draw(folder)
    table = TABLES.get(bench_data.run(folder)["what"])
    if table:
        (folder / "table.md").write_text(table(folder))


def differing(folder):
    """The files of a folder that come out otherwise than they are kept."""
    with tempfile.TemporaryDirectory() as temp:
        again = pathlib.Path(temp) / "run"
        shutil.copytree(folder, again, ignore=shutil.ignore_patterns(*MADE))
        make(again)
        names = {path.name for place in (folder, again) for made in MADE for path in place.glob(made)}
        for name in sorted(names):
            there, here = folder / name, again / name
            if not there.exists() or not here.exists() or there.read_bytes() != here.read_bytes():
                yield there.relative_to(ROOT)
            elif there.suffix == ".svg":
                xml.etree.ElementTree.parse(there)
                if there.stat().st_size > LARGEST:
                    sys.exit(f"{there.relative_to(ROOT)} is larger than {LARGEST // 1024} KiB")


def guide_tables():
    """The tables of the performance guide, each by its first line."""
    results = ROOT / "benches/results"
    pods, service = bench_data.values(results / "2026-11-24"), bench_data.values(results / "2026-11-27-standalone-2")
    for better in (bench_data.MORE, bench_data.LESS):
        yield list(bench_data.table(pods, bench_data.PODS, better, False, ["envoy", "ztunnel", "haproxy", "none"]))
        yield list(bench_data.table(service, bench_data.SERVICE, better, False))
    names = {metric: bench_mesh_report.NAMES[metric] for metric in (
        "ready ms", "resident KB", "peak KB after", "push ms", "push CPU ms", "delta and stream CPU us", "deltas late ms",
        "push p99 us", "push stall us", "deltas stall us")}
    yield list(identity_report.guide(results / "2026-11-25-identity"))
    worst = [metric for metric in names if "stall" in metric or "late" in metric]
    yield list(bench_data.sizes_table(bench_mesh_report.read(results / "2026-11-30-mesh"), names, worst))


def guide():
    """The text of the guide with each of its tables as the raw data give it."""
    lines = GUIDE.read_text().splitlines()
    for table in guide_tables():
        if table[0] not in lines:
            sys.exit(f"{GUIDE.relative_to(ROOT)} has no table that begins with: {table[0]}")
        start = lines.index(table[0])
        end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
        lines[start:end] = table
    return "\n".join(lines) + "\n"


if sys.argv[1:] == ["--check"]:
    wrong = [path for folder in kept() for path in differing(folder)]
    wrong += [GUIDE.relative_to(ROOT)] if guide() != GUIDE.read_text() else []
    for path in wrong:
        print(f"{path} is not what its raw data give: run scripts/bench_redraw.py", file=sys.stderr)
    if not wrong:
        print(f"the pictures and tables of {len(kept())} kept runs are as their raw data give them")
    sys.exit(bool(wrong))
for folder in kept():
    make(folder)
GUIDE.write_text(guide())
