"""Compares counts on standard input (CASE COUNT a line) with benches/instructions.json.

Usage: instructions_report.py RUSTC WHY   (with a WHY the file is written anew)
"""
import json, os, sys

rustc, why = sys.argv[1:3]
path = "benches/instructions.json"
now = {case: int(count) for case, count in map(str.split, sys.stdin)}
if not now:
    sys.exit("nothing was counted")
if why:
    json.dump({"why": why, "rustc": rustc, "instructions": now}, open(path, "w"), indent=1)
    open(path, "a").write("\n")
if not os.path.exists(path):
    sys.exit(f'{path} is missing; scripts/instructions.sh --accept "the first counts" makes it')
known = json.load(open(path))
grown = []
for case, count in now.items():
    before = known["instructions"].get(case)
    change = (count - before) / before * 100 if before else 0
    print(f"{case:<24}{count:>12,} instructions each, {change:+.1f} %" if before else f"{case:<24}{count:>12,} instructions each (new)")
    if not before or change > 5:
        grown.append(case)
if known["rustc"] != rustc:
    print(f'the counts in {path} are from {known["rustc"]}, these from {rustc}')
if grown:
    sys.exit(f'more than 5 % above {path}, or not in it: {", ".join(grown)}. If that is as it must be: '
             'scripts/instructions.sh --accept "WHY"')
