"""Draws the pictures and tables of all kept runs anew, from what each folder has.

Usage: bench_redraw.py [--check]   (--check changes nothing: exit code 1 if one is not as kept)
"""
import pathlib
import shutil
import sys
import tempfile

import bench_data
import bench_mesh_report
import bench_plot
import bench_report

ROOT = pathlib.Path(__file__).resolve().parent.parent
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


if sys.argv[1:] == ["--check"]:
    wrong = [path for folder in kept() for path in differing(folder)]
    for path in wrong:
        print(f"{path} is not what its raw data give: run scripts/bench_redraw.py", file=sys.stderr)
    if not wrong:
        print(f"the pictures and tables of {len(kept())} kept runs are as their raw data give them")
    sys.exit(bool(wrong))
for folder in kept():
    make(folder)
